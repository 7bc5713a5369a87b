"""Checks of HTML pages by a parser."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

VOID = ("meta", "img", "br", "line", "polyline", "circle")


class Page(HTMLParser):
    """Parses a page, and fails on mismatched tags. links: without those into the page itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        links = [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]
        self.links += [link for link in links if not link.startswith("#")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and not {"style", "nav"} & {*self.open}:
            self.texts.append(data.strip())


def check_self_contained(path: Path) -> int:
    """Parses a page: it is small, references nothing external, and all images decode. Returns the number of images,
    without those of confusion matrices."""
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 5_000_000
    assert not re.search(r"https?://|url\((?!#)|@import|<script|<link|<iframe", text)
    links = Page(text).links
    for link in links:
        kind, _, content = link.partition(",")
        assert kind in ("data:image/jpeg;base64", "data:image/png;base64")
        with Image.open(io.BytesIO(base64.b64decode("".join(content.split()), validate=True))) as image:
            image.load()
    return sum(link.startswith("data:image/jpeg") for link in links)
