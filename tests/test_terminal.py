"""Literal texts on a console that other code prints markup on."""

import io

from rich.console import Console
from rich.text import Text

from densevit.terminal import show, table


def test_texts_are_literal_and_markup_of_others_is_not() -> None:
    console = Console(file=(printed := io.StringIO()), width=60)
    names = ["[bold]x[/bold]", "\x1b[31m", "\x9b1m"]
    for shown in (*names, table([[name] for name in names], [names[0]]), Text(names[1]), "w" * 100):
        show(shown, console)
    console.print("[bold]x[/bold]")
    literal = ["[bold]x[/bold]", r"\x1b[31m", r"\x9b1m"]
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    assert lines == [*literal, literal[0], *literal, literal[1], "w" * 100, "x"]
