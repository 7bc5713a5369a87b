"""densevit benchmark --probes: a backbone beside its controls, interruptions, and errors."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import densevit
from densevit.cli import main
from densevit.errors import DensevitError

PROTOCOL = """
backbone: {cache: fp32}
heads: {segmentation: {name: linear}}
probes: {normals: {name: surface_normals}, retrieval: {name: patch_retrieval, grid: input}}
data: {name: scenes, image_size: 64, batch_size: 4, transforms: resize, train_length: 8, val_length: 4, masks: false,
       normals: true, num_workers: 0}
optim: {lr: 1e-3}
trainer: {max_images: 8, evaluate_every: 10000}
"""
pytestmark = pytest.mark.integration


class Patches(densevit.Backbone):
    """A third party's backbone."""

    channels, strides = (8,), (16,)

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 16, 16)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.patches(images)]


@pytest.fixture
def arguments(tmp_path, monkeypatch) -> list[str]:
    """A protocol, and a backbone with weights."""
    monkeypatch.setenv("DENSEVIT_CACHE", str(tmp_path / "cache"))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.startswith("effi") else find_spec(name, *rest)
    )
    torch.manual_seed(3)
    densevit.save(densevit.create_model(f"{__name__}:Patches", {"s": "linear"}, ["a"]), tmp_path / "w.safetensors")
    (tmp_path / "mine.yaml").write_text(f"{{name: '{__name__}:Patches', weights: {tmp_path}/w.safetensors}}")
    (tmp_path / "tiny.yaml").write_text(PROTOCOL)
    measured = ["--batches", "1", "--rounds", "1", "--device", "cpu", "--out", str(tmp_path / "out")]
    return ["benchmark", "--backbones", str(tmp_path / "mine.yaml"), "--probes", str(tmp_path / "tiny.yaml"), *measured]


def test_a_backbone_stands_beside_its_controls_and_an_interrupted_benchmark_goes_on(arguments, tmp_path, monkeypatch):
    from densevit_workbench.benchmarking import trainings  # late: Lightning

    fit, trained = trainings.fit, []

    def interrupted(config, run_dir, **options):
        trained.append((run_dir.parent.name, config.backbone.freeze, config.backbone.cache))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return fit(config, run_dir=run_dir, **options)

    monkeypatch.setattr(trainings, "fit", interrupted)
    assert main(arguments) != 0
    assert main(arguments) == 0 and main(arguments) == 0
    names = [f"{name}-tiny" for name in ("mine", "mine, random", "mine, random", "pixels")]
    assert trained == [(name, True, "fp32") for name in names]
    page = (tmp_path / "out" / "benchmark.md").read_text()
    table = page.partition("## Scores")[2].partition("##")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["mine", "mine, random", "pixels"]
    assert rows[0][2:] == [
        "segmentation mIoU ↑", "normals mean ↓", "normals within_22 ↑", "retrieval mIoU ↑"
    ]  # fmt: skip
    assert rows[2][2:] != rows[3][2:] and all(0 <= float(cell) < 180 for row in rows[2:] for cell in row[2:])
    assert len([*Path(tmp_path / "cache" / "features").iterdir()]) == 3


def test_no_cache_keeps_no_features(arguments, tmp_path):
    assert main([*arguments, "--no-cache"]) == 0
    assert not (tmp_path / "cache" / "features").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"probes": ["quik"]}, "quik"),
        ({"backbones": []}, "benchmark: give backbones together with heads or probes"),
        ({"configs": ["detr_swin"]}, "benchmark: "),
        ({"overrides": ["backbone.cache=null"]}, "backbone.cache=null: with --backbones"),
    ],
)
def test_errors_are_one_line(given, message, arguments, tmp_path):
    options = {"backbones": [arguments[2]], "probes": [arguments[4]], "out": tmp_path / "out", **given}
    with pytest.raises(DensevitError, match=message) as error:
        densevit.benchmark(**options)
    assert "\n" not in str(error.value)


def test_data_without_the_labels_fails_one_step(arguments, capsys):
    assert main([*arguments, "data.normals=false"]) == 1
    expected = "mine-tiny: training: probes.normals (surface_normals): the data set 'scenes' has no normals. Fix: "
    assert expected in capsys.readouterr().err
