"""Runs with `data.on_error: skip`: what is counted and printed, and metrics of the readable images alone."""

from pathlib import Path

import pytest
import yaml

import densevit
from tests.data.loading.test_unreadable_files import DAMAGED, LENGTH, write_damaged

RECIPE = """
backbone: {name: swin, variant: nano, window_size: 4}
heads: {surfaces: {name: setr, decoder: mla, width: 16, branch_width: 8, auxiliary: [], norm: group}}
data:
  {name: label_maps, root: data, classes: [a, b], image_size: 32, batch_size: 1, num_workers: 0, on_error: skip}
optim: {lr: 1e-2}
trainer: {max_epochs: 2, precision: "32", accelerator: cpu, evaluate_every_epochs: 1, ema: 0.5}
"""


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_run_counts_and_names_the_skipped_images(cwd: Path) -> None:
    write_damaged(cwd / "data")
    with pytest.warns(UserWarning) as warned:
        run = densevit.fit(yaml.safe_load(RECIPE), run_dir="run")
    printed = "\n".join(str(warning.message) for warning in warned)
    for name in DAMAGED:
        assert printed.count(f"data/images/train/{name}.jpg cannot be read") == 1, printed
    for epoch in (1, 2):
        assert f"epoch {epoch}: 2 images were left out, because files cannot be read" in printed
    assert f"validation at step {LENGTH}: 2 images were left out" in printed
    metrics = dict(run.metrics)
    assert metrics.pop("skipped/images") == 2
    for name in DAMAGED:
        (cwd / f"data/images/val/{name}.jpg").unlink()
        (cwd / f"data/labels/val/{name}.png").unlink()
    assert densevit.evaluate("run") == metrics  # those of the images that can be read
