"""The report of a run: its parts, and what is missing or truncated."""

import base64
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit.evaluation import metrics_file
from densevit.reporting.run_report import write_report
from tests.reporting.browser import Page


def written(run: Path) -> Page:
    """The page of a run."""
    return Page(write_report(run).read_text("utf-8"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "detr_<swin>"
    (folder / "predictions").mkdir(parents=True)
    sections = "backbone: {name: swin}\nheads: {detection: {name: detr}}\ndata: {name: scenes}  # <script>\n"
    (folder / "config.yaml").write_text(sections)
    metrics = {"AP": 0.41237, "APs": math.nan, "AP/cat & <dog>": 0.5, "AP/fox": 0.25}
    metrics = {f"detection/{name}": value for name, value in metrics.items()}
    metrics_file.write(metrics, folder / "metrics.json")
    (folder / "metrics.csv").write_text(
        "step,train/lr,train/loss,train/detection/boxes,detection/AP,detection/AP/fox\n0,1,4.5,2,,\n9,1,3.5,1,0.3,0.2\n"
    )
    for n, name in enumerate(("b.jpg", "a.jpg", "large.png")):
        Image.fromarray(np.full((30, 40 + 2000 * n, 3), 80 * n, np.uint8)).save(folder / "predictions" / name)
    return folder


def test_page_shows_all_parts_of_a_run(run: Path):
    page = written(run)
    assert page.texts[:3] == ["detr_<swin>", "detr_<swin>", "detr on swin, data: scenes"]
    for text in ("detection", "AP", "0.4124", "–", "cat & <dog>", "0.5000", "fox", "0.2500"):
        assert text in page.texts
    titles = [text for text in page.texts if "/" in text]
    assert titles == ["train/loss", "detection/AP", "train/lr", "train/detection/boxes"]  # without class curves
    assert any("# <script>" in text for text in page.texts)
    captions = page.texts[page.texts.index("Visualizations") + 1 : page.texts.index("Config")]
    assert captions == ["a", "b", "large"] and "onfusion" not in "".join(page.texts)
    assert len(page.links) == 3 and all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert not re.search(r"https?://|url\((?!#)|@import", (run / "report.html").read_text())
    images = [base64.b64decode(link.split(",")[1]) for link in page.links]
    assert images[1] == (run / "predictions" / "b.jpg").read_bytes() and max(map(len, images)) < 100_000


@pytest.mark.parametrize("part", ["config.yaml", "metrics.json", "metrics.csv", "predictions", ""])
def test_missing_parts_are_listed_and_do_not_affect_others(run: Path, part: str):
    if part:
        (run / part).rename(run / "elsewhere")
    else:
        metrics_file.write({}, run / "metrics.json")
    texts = written(run).texts
    missing = [text.split()[3].rstrip(":") for text in texts if text.startswith("There is no ")]
    assert missing == [part + "/*.jpg" * (part == "predictions")] * bool(part)
    assert ("0.4124" in texts) == (part not in ("metrics.json", ""))
    assert ("train/loss" in texts) == (part != "metrics.csv")
