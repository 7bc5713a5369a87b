"""Prints texts and tables literally, as class names may contain markup (`[/x]`) or escape codes; progress bars for
notebooks."""

from collections.abc import Collection, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from densevit.errors import printable

if TYPE_CHECKING:
    from tqdm import tqdm


MAX_WORD = 24  # characters; longer words, such as paths, are divided where a table is too wide


def in_notebook() -> bool:
    """Whether the program runs in a notebook: Jupyter, Colab or Databricks."""
    return Console().is_jupyter


def notebook_bar() -> type["tqdm[Any]"]:
    """Returns tqdm's bar for a notebook: a widget if ipywidgets is installed, otherwise text."""
    if find_spec("ipywidgets"):
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    return tqdm


def text_console(**options: Any) -> Console:
    """Returns a console for tables and progress bars that ignores markup in texts."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def show(renderable: RenderableType, console: Console) -> None:
    """Prints a text or a table without interpreting markup and control characters. Texts are not wrapped."""
    is_text = isinstance(renderable, str | Text)
    literal = Text(renderable) if isinstance(renderable, str) else renderable
    options = console.options.update(no_wrap=is_text, overflow="ignore" if is_text else None, markup=False)
    segments = (
        segment if segment.control else Segment(printable(segment.text), segment.style)
        for segment in console.render(literal, options.update(highlight=False))
    )
    console.print(Segments(segments), soft_wrap=True)


def table(
    rows: Sequence[Sequence[str | Text]],
    header: Sequence[str] = (),
    title: str = "",
    right: Collection[int] | None = None,
    no_wrap: Collection[int] = (),
) -> Table:
    """Builds a table for the terminal, without borders; long texts are wrapped between words.

    right: indices of right-aligned columns; None: columns of numbers. no_wrap: indices of columns that are not wrapped.
    """
    cells = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    count = len(header) or max(map(len, cells), default=0)
    if right is None:
        right = [n for n in range(count) if cells and all(_is_number(row[n].plain) for row in cells if n < len(row))]
    grid = Table(
        title=Text(title, "bold") if title else None,
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=bool(header),
        header_style="bold",
    )
    for n in range(count):
        words = " ".join([*header[n : n + 1], *(row[n].plain for row in cells if n < len(row))]).split()
        grid.add_column(
            Text(header[n]) if header else "",
            min_width=min(max(map(cell_len, words), default=0), MAX_WORD),
            justify="right" if n in right else "left",
            overflow="fold",
            no_wrap=n in no_wrap,
        )
    for row in cells:
        grid.add_row(*row)
    return grid


def _is_number(text: str) -> bool:
    """Whether a text begins with a digit, or is a dash or empty."""
    return text[:1].isdigit() or text.lstrip("-")[:1].isdigit() or text in ("", "-", "–")
