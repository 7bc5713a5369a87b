"""Progress on stderr: loops show a bar in a terminal or notebook, otherwise a line every half minute; long steps print
a line each."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from densevit.errors import printable

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 30.0


def track(items: Iterable[T], description: str, total: int, quiet: bool = False) -> Iterator[T]:
    """Yields the items and shows progress relative to `total` and the remaining time."""
    from densevit.terminal import in_notebook, notebook_bar, text_console  # slower to import than this module

    if quiet:
        yield from items
    elif sys.stderr.isatty():
        from rich.markup import escape
        from rich.progress import track as bar

        text = escape(printable(description))  # rich interprets markup in the bar's column on every console
        yield from bar(items, text, total, console=text_console(stderr=True), transient=True)
    elif in_notebook():
        yield from notebook_bar()(items, printable(description), total, leave=False)
    else:
        yield from lines(items, description, total)


def lines(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yields the items and prints a line every half minute, also within the loop of a progress bar."""
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = duration((now - start) / done * (total - done))
            print(f"{printable(description)}: {done:,} of {total:,}, {left} left", file=sys.stderr, flush=True)


def speed(images_per_second: float) -> str:
    """Formats a speed, such as "0.4 images/s" or "25 images/s"."""
    digits = 1 if images_per_second < 9.95 else 0
    return f"{images_per_second:.{digits}f} images/s"


def duration(seconds: float) -> str:
    """Formats a duration, such as "less than 1 s", "about 40 s", "about 12 min" or "about 3.5 h"."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 2 * 3600 else f"about {seconds / 3600:.1f} h"
