"""The page that compares runs, and `densevit report`."""

import functools
import json
import re
from pathlib import Path

import pytest

import densevit
from densevit.errors import ConfigError
from densevit.evaluation import metrics_file, tables_file
from tests.data.coco_folder import noise
from tests.reporting.browser import check_self_contained
from tests.written_files import encoded

CONFIG = """
backbone: {{name: swin}}
heads: {{pets: {{name: detr}}, far: {{name: dpt}}}}
data: {{name: scenes}}
optim: {{lr: {lr}}}
"""


@functools.cache
def image(height: int, width: int) -> bytes:
    """Noise, which JPEG does not compress."""
    return encoded(noise(0, height, width), "JPEG", quality=95)


def write_run(folder: Path, scale: float, lr: float) -> Path:
    """A run with all files."""
    (folder / "predictions" / "worst").mkdir(parents=True)
    (folder / "predictions" / "best").mkdir()
    (folder / "config.yaml").write_text(CONFIG.format(lr=lr))
    metrics_file.write({"pets/AP": 0.4 * scale, "pets/AP/cat": 0.1, "far/AbsRel": 0.2 * scale}, folder / "metrics.json")
    rows = "".join(f"{n},{5 / (n + 1)},{0.01 * n * scale}\n" for n in range(20))
    (folder / "metrics.csv").write_text(f"step,train/loss,pets/AP\n{rows}")
    tables_file.write([["class", "objects", "AP"], ["cat", 3, 0.25], ["<dog>", 4, 0.5]], folder / "classes-pets.csv")
    tables_file.write([["error", "dAP50", "count"], ["missed", 0.125, 7]], folder / "errors-pets.csv")
    tables_file.write([["", "cat", "<dog>"], ["cat", 3, 1], ["<dog>", 0, 8]], folder / "confusion-pets.csv")
    scores = [["image", "image_id", "score"], ["a.jpg", 1, 0.125], ["b.jpg", 2, 0.75]]
    tables_file.write(scores, folder / "images-pets.csv")
    plot = {"x": "recall", "y": "precision", "curves": {"IoU 0.50": [[0, 1], [1, 0.2 * scale]]}, "unit_axes": True}
    (folder / "plots.json").write_text(json.dumps({"pets": {"precision-recall": plot}}))
    (folder / "lower_is_better.json").write_text('["far/AbsRel"]')
    for name in ("pets-a", "pets-b", "far-a", "worst/pets-1-a", "best/pets-1-b"):
        (folder / "predictions" / f"{name}.jpg").write_bytes(image(70, 180))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / "a" / "run", 1.0, 0.1), write_run(tmp_path / "b" / "run", 1.5, 0.2)]


def test_a_comparison_has_all_sections(runs: list[Path], tmp_path: Path):
    path = densevit.report(runs, tmp_path / "pages" / "both.html").path
    assert check_self_contained(path) == 2 * 3  # images of both runs
    text = path.read_text()
    assert text.index("a/run") and text.index("b/run")  # the shortest names that differ
    for row in (  # the best of each row is bold
        "<td>pets/AP</td><td>0.4000</td><td><b>0.6000</b></td>",
        "<td>far/AbsRel</td><td><b>0.2000</b></td><td>0.3000</td>",
        "<td>optim.lr</td><td>0.1</td><td>0.2</td>",
    ):
        assert row in cells(text)
    assert "backbone.name" not in text and "pets/AP/cat" not in text
    assert ">Curves<" in text and ">Images<" in text
    assert all(text.count(f"stroke: var(--c{n}); stroke-width: 1.6") == 2 for n in (0, 1))  # loss and AP


def cells(text: str) -> str:
    return re.sub(r"<td[^>]*>", "<td>", text)


def test_the_command(runs: list[Path], cwd: Path, run):
    run("report", "a/run", "b/run")
    assert Path("comparison.html").is_file()
    assert json.loads(run("report", "a/run", "--json"))["report"] == "a/run/report.html"
    assert check_self_contained(path := Path("a/run/report.html")) == 5
    for part in ("pets: worst", "pets: best", "a: 0.1250", "b: 0.7500", "&lt;dog&gt;", "Confusion: pets", "missed"):
        assert part in path.read_text()
    with pytest.raises(ConfigError, match="no run is given"):
        densevit.report([])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["missing"], "missing: is not a folder"),
        (["a"], "a: has none of config.yaml, metrics.json, metrics.csv"),
        (["a/run", "--out", "b"], "--out b: is a folder"),
    ],
)
def test_what_is_no_run_is_an_error(given: list[str], message: str, runs: list[Path], cwd: Path, run):
    assert message in run("report", *given, code=2)
