"""Consoles that print names from files as they are: a class may be called `[/x]`, or hold a terminal's escapes."""

from typing import Any

from rich import get_console, reconfigure
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from densevit.errors import printable

TEXT: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
"""Options of a rich console that prints text as it is."""


def text_console(**options: Any) -> Console:
    """A console for tables and progress bars. It reads no markup, and escapes control characters in texts."""
    return escaping(Console(**TEXT, **options))


def use_text_console(**options: Any) -> Console:
    """Makes rich's global console one like `text_console`, and returns it."""
    reconfigure(**TEXT, **options)
    return escaping(get_console())


def escaping(console: Console) -> Console:
    """The console, which from now on escapes control characters in all texts but its own."""
    # first, as `push_render_hook` cannot: a progress bar that is shown already pops the last one when it ends
    console._render_hooks.insert(0, _Escaping())
    return console


class _Escaping(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Escaped(one) for one in renderables]


class _Escaped:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
