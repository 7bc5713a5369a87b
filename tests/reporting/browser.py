"""Checks of HTML pages by a parser."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

MOST_BYTES = 5_000_000


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]


def check_self_contained(path: Path) -> int:
    """Parses a page: it is small, references nothing external, and all images decode. Returns the number of images,
    without those of confusion matrices."""
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    assert not re.search(r"https?://|url\(|@import|<script|<link|<iframe", text)
    page = _Page()
    page.feed(text)
    links = [link for link in page.links if not link.startswith("#")]
    for link in links:
        kind, _, content = link.partition(",")
        assert kind in ("data:image/jpeg;base64", "data:image/png;base64")
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as image:
            image.load()
    return sum(link.startswith("data:image/jpeg") for link in links)
