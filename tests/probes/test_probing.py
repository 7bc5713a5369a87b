"""densevit probe: a backbone beside its controls, heads on computed features, modules, trainings, and errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import densevit
from densevit.cli import main
from densevit.config import yaml_io
from densevit.errors import DensevitError
from densevit_probes.protocols import Protocol

PROTOCOL = """
heads: {segmentation: {name: linear}, depth: {name: linear_depth, max_depth: 60}}
probes:
  normals: {name: surface_normals}
  retrieval: {name: patch_retrieval, grid: input}
  views: {name: view_correspondence}
data: {name: scenes, image_size: [48, 64], batch_size: 4, transforms: resize, train_length: 10, val_length: 4,
       masks: false, normals: true, num_workers: 0}
optim: {lr: 1e-2, warmup: 0.2}
trainer: {max_images: 24, clip_grad_norm: 1.0}
"""
COUNTED = {"images": 0}


class Patches(densevit.Backbone):
    """A third party's backbone; counts the images that it encodes."""

    channels, strides = (8,), (16,)

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 16, 16)

    def forward(self, images: Tensor) -> list[Tensor]:
        COUNTED["images"] += len(images)
        return [self.patches(images)]


@pytest.fixture
def folder(cwd) -> Path:
    """A protocol, and a backbone with weights."""
    torch.manual_seed(3)
    densevit.save(densevit.create_model(f"{__name__}:Patches", {"s": "linear"}, ["a"]), cwd / "w.safetensors")
    (cwd / "mine.yaml").write_text(f"{{name: '{__name__}:Patches', weights: {cwd}/w.safetensors}}")
    (cwd / "tiny.yaml").write_text(PROTOCOL)
    return cwd


@pytest.mark.integration
def test_a_backbone_stands_beside_its_controls(folder, capsys):
    COUNTED["images"] = 0
    assert main(["probe", "mine.yaml", "--protocol", "tiny.yaml", "--device", "cpu"]) == 0
    # Two backbones encode 10 training images, 4 validation images and their 4 warped views.
    assert COUNTED["images"] == 2 * (10 + 4 + 4)
    results = json.loads((folder / "runs" / "probe-tiny.json").read_text())["results"]
    assert [result["backbone"] for result in results] == ["mine", "mine, random", "pixels"]
    main_metrics = ["segmentation/mIoU", "depth/AbsRel", "normals/mean", "retrieval/mIoU", "views/recall10"]
    assert all(result["main"] == main_metrics for result in results)
    for result in results:
        for metric in main_metrics:
            low, high = result["intervals"][metric]
            assert low <= result["metrics"][metric] <= high
    assert results[0]["metrics"] != results[1]["metrics"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if "↑" in line] == [
        [metric, "↑"] for metric in (main_metrics[0], *main_metrics[3:])
    ]
    assert not (folder / "runs" / "tiny").exists()  # no training


@pytest.mark.integration
def test_a_board_of_upsamplers_ranks_a_backbone_with_each_neck(folder):
    """Rows have one digest; a neck with weights stays as it is, others are trained with the heads."""
    torch.save(densevit.create_neck("naf", (8,), (16,), width=32).state_dict(), folder / "naf.pth")
    (folder / "mine_naf.yaml").write_text("{name: naf, width: 32, weights: naf.pth}")
    words = ["probe", "mine.yaml", "--protocol", "tiny.yaml", "probes={}", "--device", "cpu", "--board", "board"]
    assert main([*words, "--necks", "none,bilinear,simple_pyramid,mine_naf.yaml"]) == 0
    results = json.loads((folder / "runs" / "probe-tiny.json").read_text())["results"]
    names = ["mine, random", "pixels", "mine, none", "mine, bilinear", "mine, simple_pyramid", "mine, mine_naf"]
    assert [x["backbone"] for x in results] == names
    assert [x["config"]["heads"]["depth"]["freeze"] for x in results] == [*[False] * 5, ["neck.*"]]
    assert len({(x["metrics"]["segmentation/mIoU"], x["facts"]["network"]) for x in results}) == 6
    assert len({x["facts"]["digest"] for x in results}) == 1 and "Not comparable" not in Path("board.md").read_text()
    with pytest.raises(DensevitError, match="the protocol p has no heads"):
        Protocol.of({"probes": {}}, "p", "p").with_neck("none")


@pytest.mark.integration
def test_heads_on_computed_features_have_the_losses_of_a_training(folder, monkeypatch):
    """The metrics of `densevit train` with the same seed, data and schedule; images are equal in size."""
    from densevit.config import from_mapping

    protocol = Protocol.read("tiny.yaml")
    config = protocol.config(yaml_io.read_file(folder / "mine.yaml"))
    run = densevit.fit(from_mapping(config.model_dump(), "test"), run_dir=folder / "run")
    result = densevit.probe("mine.yaml", protocol, device="cpu")
    expected = {name: value for name, value in run.metrics.items() if np.isfinite(value)}
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, rel=4e-7, abs=4e-7)


def test_images_of_other_sizes_are_padded_with_their_last_cells(folder):
    from densevit_probes.heads import _together
    from densevit_probes.probe import EncodedImage

    tall, wide = torch.arange(6.0).reshape(1, 3, 2), torch.arange(8.0).reshape(1, 2, 4)
    images = [EncodedImage([tall], {"size": (40, 30)}, (48, 32)), EncodedImage([wide], {"size": (32, 64)}, (32, 64))]
    [maps], batch = _together(images, torch.device("cpu"))
    assert maps[0, 0].tolist() == [[0, 1, 1, 1], [2, 3, 3, 3], [4, 5, 5, 5]]
    assert maps[1, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7]]
    mask = batch["padding_mask"]
    assert mask.shape == (2, 48, 64)
    assert (~mask[0]).nonzero().max(0).values.tolist() == [39, 29] and (~mask[1]).sum() == 32 * 64


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("backbone: {name: swin}", [], "a protocol has no backbone, and freeze is true or false. Fix: "),
        ("", ["backbone.depth=3"], "a protocol has no backbone"),
        ("probes: {segmentation: {name: patch_knn}}\nheads: {segmentation: {name: linear}}", [], "the name of no head"),
        ("probe: {}", [], "probe"),
    ],
)
def test_wrong_protocols_are_errors_of_one_line(text, overrides, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{text}\ndata: {{name: scenes}}")
    with pytest.raises(DensevitError, match=message) as error:
        Protocol.read(str(path), overrides).config({"name": "pixels"})
    assert "\n" not in str(error.value)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pixels", "data.normals=false"], "pixels: probes.normals: the data has no normals. Fix: "),
        (["pixels", "trainer.ema=0.9"], "pixels: trainer.ema has no effect on heads"),
        (["pixels", "trainer.precision=16-mixed"], "pixels: trainer.precision has no effect on heads"),
        (["pixel"], "there is no config file 'pixel'"),
        (["pixels", "probes.retrieval.n=3"], "pixels: probes.retrieval.n is not an option"),
    ],
)
def test_errors_are_one_line(words, message, folder, capsys):
    assert main(["probe", *words, "--protocol", "tiny.yaml", "--device", "cpu"]) in (1, 2)
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.integration
@pytest.mark.parametrize(
    "name", [name.partition("/")[2] for name in yaml_io.shipped_configs() if name.startswith("probe/")]
)
def test_shipped_protocols_are_valid(name):
    from densevit import config as configs

    protocol = Protocol.read(name)
    config = protocol.config({"name": "resnet", "depth": 18})
    (configs.check_plugins if config.heads else configs.check_evaluation_plugins)(config)
    assert protocol.probes or config.heads
