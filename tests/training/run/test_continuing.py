"""What a training starts from that continues a model: on the same or more data, and with other classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import densevit
from densevit import config as configs
from densevit.config import Config
from densevit.interfaces import Class
from densevit.targets.run_length_masks import RunLengthMasks

SIDE = 32
HEADS: dict[str, dict[str, Any]] = {
    "detection": {"name": "one_stage", "width": 16, "fusion_blocks": 1},
    "instances": {
        "name": "mask2former_instance",
        "num_queries": 4,
        "transformer": {"width": 32, "num_heads": 2, "decoder_layers": 1, "feedforward": 16},
        "pixel_decoder": {"layers": 1, "feedforward": 16, "fusion_blocks": 1},
    },
    "segmentation": {"name": "setr", "decoder": "naive", "width": 8, "norm": "group"},
    "depth": {"name": "dpt", "width": 8},
}
CLASS_TENSORS = {  # with a row per class; of instances, also a last one for "no object"
    "detection": ("cells.label_head",),
    "instances": ("decoder.label_head",),
    "segmentation": ("decode.classifier", "auxiliary.0.classifier", "auxiliary.1.classifier", "auxiliary.2.classifier"),
}
OLD = ("cat", "dog", "cow")


class Photos(densevit.Dataset):
    """Random images of these classes."""

    provides = ("boxes", "labels", "masks", "semantic", "depth")

    def __init__(self, split: str = "train", classes: tuple[str, ...] = OLD, count: int = 4) -> None:
        self.count = count
        own = tuple(Class(name, i + 1, (i, i, i)) for i, name in enumerate(classes))
        self.classes = {"detection": own, "segmentation": own}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(index)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[4:20, 4:20] = 1
        targets = {
            "boxes": torch.tensor([[4.0, 4, 20, 20]]),
            "labels": torch.zeros(1, dtype=torch.int64),
            "masks": RunLengthMasks.from_dense([mask], (SIDE, SIDE)),
            "semantic": torch.from_numpy(rng.integers(0, len(self.classes["segmentation"]), (SIDE, SIDE), np.uint8)),
            "depth": torch.from_numpy(rng.uniform(1, 9, (SIDE, SIDE)).astype(np.float32)),
            "image_id": index,
            "size": (SIDE, SIDE),
            "original_size": (SIDE, SIDE),
        }
        return {"image": torch.from_numpy(rng.integers(0, 256, (3, SIDE, SIDE), np.uint8)), "targets": targets}


def config_of(task: str, weights: Path | None = None, **data: Any) -> Config:
    return configs.from_mapping(
        {
            "weights": weights and str(weights),
            "backbone": {"name": "swin", "variant": "nano"},
            "heads": {task: HEADS[task]},
            "data": {"name": f"{__name__}:Photos", "image_size": SIDE, "batch_size": 2, "num_workers": 0, **data},
            "trainer": {"max_steps": 1, "accelerator": "cpu"},
        }
    )


def initial(config: Config) -> tuple[dict[str, Tensor], Any]:
    """The tensors from which a training starts, and its reports of what was loaded."""
    from densevit.training.run.plan import Plan

    plan = Plan.of(config)
    return plan.model.state_dict(), plan.loaded


@pytest.fixture(scope="module", params=HEADS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A task, and the file of its model with other values than initial ones."""
    model = densevit.create_model(config_of(request.param), pretrained=False)
    generator = torch.Generator().manual_seed(1)
    for value in model.model.parameters():
        value.data += 0.1 * torch.randn(value.shape, generator=generator)
    path = tmp_path_factory.mktemp("trained") / "model.safetensors"
    densevit.save(model, path)
    return request.param, path


@pytest.mark.parametrize("count", [4, 8])
def test_on_the_same_and_on_more_data_a_training_starts_from_all_tensors(trained, count):
    task, path = trained
    found, [report] = initial(config_of(task, path, count=count))
    old = densevit.load(path).model.state_dict()
    assert found.keys() == old.keys() and all(torch.equal(found[key], value) for key, value in old.items())
    assert report.loaded == len(old) and not (report.left_out or report.initialised or report.notes)


@pytest.mark.parametrize("trained", CLASS_TENSORS, indirect=True)
@pytest.mark.parametrize(
    "classes",
    [(*OLD, "pig"), ("pig", *OLD), OLD[:2], (OLD[2], OLD[0]), (OLD[1], OLD[2], OLD[0])],
    ids=["one more", "one more first", "one fewer", "others", "another order"],
)
def test_with_other_classes_a_training_keeps_the_rows_of_known_ones(trained, classes):
    task, path = trained
    found, [report] = initial(config_of(task, path, classes=[*classes]))
    new, _ = initial(config_of(task, classes=[*classes]))
    old = densevit.load(path).model.state_dict()
    rows = {f"heads.{task}.{name}.{kind}" for name in CLASS_TENSORS[task] for kind in ("weight", "bias")}
    assert rows < found.keys() == old.keys() == new.keys() and {one.name for one in report.adapted} == rows
    for key, value in found.items():
        if key not in rows:
            assert torch.equal(value, old[key]), key
            continue
        of_classes = [old[key][OLD.index(name)] if name in OLD else new[key][i] for i, name in enumerate(classes)]
        assert torch.equal(value, torch.stack([*of_classes, *old[key][len(OLD) :]])), key
    assert not (report.left_out or report.initialised)


@pytest.mark.integration
@pytest.mark.parametrize("trained", ["segmentation"], indirect=True)
def test_the_start_prints_what_was_set_aside_and_config_yaml_is_without_it(trained, tmp_path, capsys):
    task, path = trained
    (tmp_path / "preset.yaml").write_text("name: swin\nvariant: nano\nweights: gone.pth\n")
    (tmp_path / "mine.yaml").write_text(configs.dump(config_of(task)))
    overrides = [f"backbone={tmp_path / 'preset.yaml'}", f"weights={path}"]
    run = densevit.fit(tmp_path / "mine.yaml", overrides, run_dir=tmp_path / "run")
    printed = " ".join(capsys.readouterr().out.split())
    assert "Set aside: backbone.weights=gone.pth (" in printed and f"for weights={path} (command line)." in printed
    config = configs.load(run.path)
    assert config.weights == str(path) and config.backbone.weights is None and not config.set_aside
    old = densevit.load(path).model.state_dict()
    assert all(torch.equal(value, old[key]) for key, value in initial(config)[0].items())
