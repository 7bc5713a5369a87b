"""Training methods of a third-party distribution, installed as by pip: SimMIM, SimSiam and feature distillation."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from densevit_scenes.dataset import Scenes
from tests.plugins.test_plugins import run_command
from tests.training.runs import rows
from tests.written_files import save_image

pytestmark = pytest.mark.integration

PACKAGES = ("methods",)
BACKBONE = "backbone: {name: swin, variant: nano, window_size: 4}"
SIMMIM = f"""
{BACKBONE}
heads: {{}}
method: {{name: my_simmim, patch: 16}}
data: {{name: images, root: photos, image_size: 64, batch_size: 8, num_workers: 0}}
optim: {{lr: 1e-3, warmup_steps: 2}}
trainer: {{max_steps: 20, accelerator: cpu, precision: "32", log_every: 1, checkpoint_every: 3}}
"""
DETECTOR = f"""
{BACKBONE}
heads:
  detection:
    {{name: detr, num_queries: 5,
     transformer: {{width: 16, num_heads: 2, encoder_layers: 1, decoder_layers: 1, feedforward: 8}}}}
data: {{name: scenes, image_size: 64, batch_size: 2, num_workers: 0, train_length: 4, val_length: 2}}
trainer: {{max_steps: 2, accelerator: cpu, precision: "32"}}
"""


@pytest.fixture(scope="module")
def site(third_party: Callable[[str], Path]) -> Path:
    return third_party("methods")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rendered images without labels in photos/, and the configs."""
    folder = tmp_path_factory.mktemp("work")
    for split, count in (("train", 24), ("val", 5)):
        scenes = Scenes(split, image_size=64)
        for index in range(count):
            image = scenes[index]["image"].permute(1, 2, 0).numpy()
            save_image(folder / "photos" / split / f"{index}.png", image)
    (folder / "simmim.yaml").write_text(SIMMIM)
    (folder / "detector.yaml").write_text(DETECTOR)
    return folder


@pytest.fixture(autouse=True)
def in_work(work: Path, inside: Callable[[Path], None]) -> None:
    inside(work)


def losses(run: Path, name: str = "train/loss") -> list[float]:
    return [float(row[name]) for row in rows(run) if row.get(name)]


# ---- masked image modelling ----


def test_simmim_learns_from_images_without_labels(site: Path, work: Path) -> None:
    run_command("train", "simmim.yaml", "--run-dir", "simmim", site=site, cwd=work)
    pretrained = work / "simmim"
    found = losses(pretrained)
    assert len(found) == 20 and np.mean(found[-5:]) < 0.85 * np.mean(found[:5])
    validated = losses(pretrained, "method/loss")
    assert len(validated) == 4 and validated[-1] == min(validated)
    assert json.loads((pretrained / "metrics.json").read_text()) == {"method/loss": validated[-1]}


# ---- two views, distillation ----
