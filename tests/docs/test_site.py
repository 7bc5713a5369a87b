"""The site is built without warnings, is complete, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import densevit

LOADED = {
    *(("script", "src"), ("img", "src"), ("img", "srcset"), ("source", "src"), ("source", "srcset"), ("iframe", "src")),
    *(("video", "src"), ("audio", "src"), ("embed", "src"), ("object", "data"), ("image", "href"), ("use", "href")),
}
RELATIONS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "manifest"}
REMOTE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)


class Page(HTMLParser):
    """What a page loads, links to, and can be linked to by an anchor; and its text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.in_style, self.styles = False, ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.in_style = tag == "style"
        self.styles += given.get("style", "") + "\n"
        self.loads += [value for name, value in given.items() if (tag, name) in LOADED]
        if tag == "link" and RELATIONS & {*given.get("rel", "").lower().split()}:
            self.loads.append(given["href"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.anchors |= {given[name] for name in ("id", "name") if name in given}

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.styles += data


@pytest.fixture(scope="module")
def site(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with --strict: a warning is an error. No address outside of this machine is reached."""
    for package in ("mkdocs", "material", "mkdocstrings_handlers"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("site")
    proxy = "http://127.0.0.1:9"  # refuses connections
    environment = {**os.environ, "http_proxy": proxy, "https_proxy": proxy, "no_proxy": "", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in sorted(site.rglob("*.html"))}


@pytest.mark.integration
def test_every_page_is_built(project: Path, site: Path, pages: dict[Path, Page]) -> None:
    sources = [file.relative_to(project / "docs") for file in (project / "docs").rglob("*") if file.is_file()]
    expected = {site / file.with_suffix(".html") for file in sources if file.suffix in (".md", ".ipynb")}
    examples = project / "examples"
    expected |= {site / "examples/index.html"} | {site / f"examples/{file.stem}.html" for file in examples.glob("*.py")}
    expected |= {site / f"examples/plugins/{file.parent.name}.html" for file in examples.glob("plugins/*/setup.cfg")}
    expected |= {site / name for name in ("404.html", "changelog.html", "contributing.html")}
    assert set(pages) == expected


@pytest.mark.integration
def test_every_page_is_in_the_nav(site: Path, pages: dict[Path, Page]) -> None:
    start = site / "index.html"
    html = start.read_text(encoding="utf-8")
    sidebar = html[html.index('<nav class="md-nav md-nav--primary') : html.index("<article")]
    linked = {site / unquote(link).partition("#")[0] for link in re.findall(r'href="([^"]+)"', sidebar)}
    missing = set(pages) - linked - {start, site / "404.html"}
    assert not missing, "missing in `nav` of mkdocs.yml"


@pytest.mark.integration
def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for file, page in pages.items():
        remote = [address for address in page.loads if REMOTE.match(address)]
        assert not remote, f"{file.name} loads {remote}"
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", page.styles), file.name
    for file in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", file.read_text(encoding="utf-8")), file.name
    for file in site.rglob("*.svg"):
        assert not re.search(r"(href|src)=\"(https?:)?//|url\(\s*[\"']?http", file.read_text(encoding="utf-8")), (
            file.name
        )


@pytest.mark.integration
def test_loaded_files_and_internal_links_resolve(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for file, page in pages.items():
        if file.name == "404.html":  # its addresses begin at the root of a server
            continue
        for address in page.loads + page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            exists = target.is_relative_to(site.resolve()) and target.is_file()
            if not exists or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{file.relative_to(site)}: {address}")
    assert not broken, "\n".join(broken)


@pytest.mark.integration
def test_reference_has_all_public_names(site: Path, pages: dict[Path, Page]) -> None:
    reference = [page for file, page in pages.items() if file.parent == site / "reference"]
    anchors = set().union(*(page.anchors for page in reference))
    assert {f"densevit.{name}" for name in densevit.__all__} <= anchors


def test_citation_follows_its_schema(project: Path) -> None:
    cffconvert = pytest.importorskip("cffconvert")
    cffconvert.Citation((project / "CITATION.cff").read_text(encoding="utf-8")).validate()
