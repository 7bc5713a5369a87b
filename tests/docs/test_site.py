"""The site is built without warnings, is complete, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

import densevit

REMOTE = r"\s*(?:https?:)?//"
# What a page loads: scripts, images, frames and media, and links of the head but the canonical address.
LOADS = re.compile(
    rf"""<(?:script|img|source|iframe|video|audio|embed|object|image|use)\b[^>]*\s(?:src|srcset|data|href)="{REMOTE}"""
    rf"""|<link\b(?![^>]*rel="(?:canonical|prev|next)")[^>]*href="{REMOTE}|url\(\s*["']?{REMOTE}|@import""",
    re.IGNORECASE,
)


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


@pytest.mark.integration
def test_every_page_is_built(project: Path, site: Path) -> None:
    sources = [file.relative_to(project / "docs") for file in (project / "docs").rglob("*") if file.is_file()]
    expected = {site / file.with_suffix(".html") for file in sources if file.suffix in (".md", ".ipynb")}
    examples = project / "examples"
    expected |= {site / "examples/index.html"} | {site / f"examples/{file.stem}.html" for file in examples.glob("*.py")}
    expected |= {site / f"examples/plugins/{file.parent.name}.html" for file in examples.glob("plugins/*/setup.cfg")}
    expected |= {site / name for name in ("404.html", "changelog.html", "contributing.html")}
    assert {*site.rglob("*.html")} == expected


@pytest.mark.integration
def test_every_page_is_in_the_nav(site: Path) -> None:
    start = site / "index.html"
    html = start.read_text(encoding="utf-8")
    sidebar = html[html.index('<nav class="md-nav md-nav--primary') : html.index("<article")]
    linked = {site / unquote(link).partition("#")[0] for link in re.findall(r'href="([^"]+)"', sidebar)}
    missing = {*site.rglob("*.html")} - linked - {start, site / "404.html"}
    assert not missing, "missing in `nav` of mkdocs.yml"


@pytest.mark.integration
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    assert LOADS.search('<link rel="stylesheet" href="//a/b.css">') and LOADS.search('<img alt="" src="https://a">')
    assert not LOADS.search('<link rel="canonical" href="https://a"><a href="https://b">c</a><img src="d.png">')
    for file in (*site.rglob("*.html"), *site.rglob("*.css"), *site.rglob("*.svg")):
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not LOADS.search(text), file


@pytest.mark.integration
def test_reference_has_all_public_names_with_their_examples(site: Path) -> None:
    html = "".join(file.read_text() for file in site.glob("reference/*.html"))
    assert {f"densevit.{name}" for name in densevit.__all__} <= {*re.findall(r'id="([\w.]+)"', html)}
    assert all("Example:" in str(getattr(densevit, name).__doc__) for name in densevit.__all__)
    assert html.count('<p>Example:</p>\n<div class="language-pycon highlight">') >= len(densevit.__all__)


def test_citation_follows_its_schema(project: Path) -> None:
    cffconvert = pytest.importorskip("cffconvert")
    cffconvert.Citation((project / "CITATION.cff").read_text(encoding="utf-8")).validate()
