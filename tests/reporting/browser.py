"""Checks of HTML pages: by a parser, and in headless Chromium where it is installed."""

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MOST_BYTES = 5_000_000
_CHECK = """
<script>
addEventListener("error", event => document.title = "ERROR " + (event.message || event.target.src), true);
addEventListener("load", () => {
  const images = [...document.images];
  document.querySelectorAll("details").forEach(one => one.open = true);
  const broken = images.filter(one => !one.complete || !one.naturalWidth || !one.getBoundingClientRect().width);
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  const color = getComputedStyle(document.body).backgroundColor;
  document.body.textContent = `CHECKED ${images.length} images, ${broken.length} broken, wide ${wide}, ${color}`;
});
</script>
"""


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


def shown(path: Path, folder: Path, dark: bool = False, width: int = 1280) -> str:
    """What Chromium finds on a page: the number of images, of broken ones, whether the page is wider than the window,
    and the colour of the background. Raises AssertionError for a message on the console."""
    assert CHROMIUM is not None
    checked = folder / "checked.html"
    checked.write_text(path.read_text(encoding="utf-8").replace("</head>", f"{_CHECK}</head>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    flags += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--window-size={width},900"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000"]
    command = [CHROMIUM, *flags, checked.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr and "<title>ERROR" not in done.stdout, done.stderr
    found = re.search(r"<body[^>]*>\s*CHECKED (.*?)</body>", done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    return found[1].strip()
