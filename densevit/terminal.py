"""Consoles that print names from files literally: a class name may contain markup (`[/x]`) or escape codes."""

from typing import Any

from rich import get_console, reconfigure
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from densevit.errors import printable

TEXT: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
"""Options of a rich console that prints text literally."""


def text_console(**options: Any) -> Console:
    """A console for tables and progress bars, which interprets no markup and escapes control characters in texts."""
    return escaping(Console(**TEXT, **options))


def use_text_console(**options: Any) -> Console:
    """Configures rich's global console like `text_console`, and returns it."""
    reconfigure(**TEXT, **options)
    return escaping(get_console())


def escaping(console: Console) -> Console:
    """Makes a console escape control characters in all texts but its own, and returns it."""
    # inserted first, which `push_render_hook` cannot do: a progress bar pops the last hook when it ends
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
