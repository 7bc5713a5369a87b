"""Literal texts on a console that other code prints markup on."""

import io

from rich.console import Console
from rich.text import Text

from densevit.terminal import MAX_WORD, show, table


def test_texts_are_literal_and_markup_of_others_is_not() -> None:
    console = Console(file=(printed := io.StringIO()), width=60)
    names = ["[bold]x[/bold]", "\x1b[31m", "\x9b1m"]
    for shown in (*names, table([[name] for name in names], [names[0]]), Text(names[1]), "w" * 100):
        show(shown, console)
    console.print("[bold]x[/bold]")
    literal = ["[bold]x[/bold]", r"\x1b[31m", r"\x9b1m"]
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    assert lines == [*literal, literal[0], *literal, literal[1], "w" * 100, "x"]


def test_words_and_numbers_of_a_table_are_whole_in_a_narrow_terminal() -> None:
    console = Console(file=(printed := io.StringIO()), width=20)
    cells = [["relative", "0.07575", "43.25", "without area"], ["side", "x" * 60, "1", ""]]
    show(table(cells, ["target", "least", "median", "reason"]), console)
    words = printed.getvalue().split()
    assert {"relative", "0.07575", "43.25", "median", "without", "area"} <= {*words}
    assert max(map(len, words)) == MAX_WORD  # of a long word's parts
