"""One more head on the backbone of a joined file: the other heads and the backbone stay bit-identical."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import densevit
from densevit import config as configs
from densevit.weights import model_file
from densevit_batch.model_joining import join, read_part
from tests.weights.joined_runs import BOXES, DEPTH, SURFACES, write_run

TRAINING: dict[str, Any] = {
    "data": {
        "name": "scenes",
        "image_size": 96,
        "depth": True,
        "train_length": 4,
        "val_length": 2,
        "batch_size": 2,
        "num_workers": 0,
    },
    "optim": {"lr": 1e-2, "weight_decay": 0.1},
    "trainer": {"max_steps": 3, "ema": 0.9, "accelerator": "cpu", "precision": "32"},
}


@pytest.fixture
def joined(tmp_path: Path) -> Path:
    """A folder with the joined model of boxes and surfaces, and a config that permits its classes of this package."""
    for seed, (name, heads) in enumerate({"boxes": BOXES, "surfaces": SURFACES}.items()):
        write_run(tmp_path / name, heads, seed + 1, data={"depth": True})
    model = join([read_part(tmp_path / "boxes"), read_part(tmp_path / "surfaces")])
    (tmp_path / "joined").mkdir()
    model_file.save(model, tmp_path / "joined" / "model.safetensors")
    (tmp_path / "joined" / "config.yaml").write_text(configs.dump(model.sections))
    return tmp_path / "joined"


def tensors(folder: Path) -> dict[str, Tensor]:
    return model_file.read(folder)[0]


@pytest.mark.integration
def test_a_config_of_the_new_head_alone(joined, tmp_path):
    run = densevit.fit({"weights": str(joined), "heads": DEPTH, **TRAINING}, run_dir=tmp_path / "depth")
    assert [*run.model.heads] == ["depth"] and run.model.sections.backbone.freeze is True
    model_file.save(join([read_part(joined), read_part(run.path)]), tmp_path / "three.safetensors")
    before, after = tensors(joined), tensors(tmp_path / "three.safetensors")
    assert {key for key in after if key not in before} == {key for key in after if key.startswith("heads.depth.")}
    assert all((after[key] == value).all() for key, value in before.items())


@pytest.mark.integration
def test_a_model_of_all_heads_trains_only_the_new_one(joined, tmp_path):
    heads = {"detection": densevit.load(joined).sections.model_dump()["heads"]["detection"], **DEPTH}
    run = densevit.fit({"weights": str(joined), "heads": heads, **TRAINING}, run_dir=tmp_path / "both")
    before, after = tensors(joined), tensors(run.path)
    frozen = [key for key in after if not key.startswith("heads.depth.")]
    assert {key.split(".")[1] for key in frozen if key.startswith(("heads.", "necks."))} == {"detection"}
    same = [key for key in frozen if (after[key] == before[key]).all()]
    assert not [key for key in frozen if after[key].shape != before[key].shape] and same == frozen


def test_the_backbone_of_a_run_that_trained_it_can_be_frozen(tmp_path):
    write_run(tmp_path / "a", BOXES, 1, backbone={"freeze": False, "scale": 0.5})
    values = {"weights": str(tmp_path / "a"), "heads": DEPTH, **TRAINING}
    assert configs.from_mapping(values).backbone.freeze is False
    section = configs.from_mapping({**values, "backbone": {"freeze": True}}).backbone
    assert section.freeze is True and section.options == {"scale": 0.5}
