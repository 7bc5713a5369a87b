"""A benchmark from end to end, on tiny models: a third party's backbone, one that fails, and what is not repeated."""

import json

import pytest
import torch
from torch import Tensor

import densevit
from tests.small_models import FourMaps

HEADS = ("setr", "dpt")
GIVEN = ["data.image_size=32", "data.train_length=8", "data.val_length=2", "data.batch_size=4"]


class Tiny(FourMaps):
    """A third party's backbone."""


class Failing(Tiny):
    """One that cannot compute."""

    def forward(self, images: Tensor) -> list[Tensor]:
        raise RuntimeError("out of order")


def benchmark(tmp_path, **options):
    backbones = [f"{__name__}:{name}" for name in ("Failing", "Tiny")]
    options = {"batch_sizes": [2], "rounds": 5, "device": "cpu", **options}
    return densevit.benchmark(overrides=GIVEN, backbones=backbones, heads=[*HEADS], out=tmp_path, **options)


@pytest.mark.integration
def test_benchmark_of_a_third_partys_backbone(tmp_path):
    found = benchmark(tmp_path, train=True, images=8, rates=[1e-3])
    assert list(found.errors) == [f"Failing-{head}: {step}" for head in HEADS for step in ("cost", "training")]
    assert "out of order" in found.errors["Failing-setr: cost"]
    tiny = found.results["Tiny-setr"]
    assert tiny.cost["by_size"]["32x32"]["multiply_adds"] > 16 * 192 * 16 + 4 * 64 * 32  # of the backbone
    assert tiny.cost["parameters"] > 193 * 16 + 65 * 32
    [timing] = tiny.timings.values()
    assert timing["runs"] == 5 and 0 < timing["p50_ms"] <= timing["p95_ms"]
    assert timing["images_per_second"] == pytest.approx(2000 / timing["p50_ms"])
    assert (tiny.training["lr"], tiny.training["main"]) == (1e-3, ["setr/mIoU"])
    assert 0 <= tiny.metrics["setr/mIoU"] <= 1 and found.results["Tiny-dpt"].metrics["dpt/AbsRel"] > 0

    page = (found.folder / "benchmark.md").read_text()
    for part in (
        *(f"torch {torch.__version__}", "8 training and 2 validation images", "8 images seen, 4 per batch"),
        "- Failing-dpt, cost: RuntimeError: out of order",
    ):
        assert part in page
    assert json.loads((found.folder / "benchmark.json").read_text())["cases"]["Tiny-setr"]["timings"] == tiny.timings

    other = benchmark(tmp_path, train=True, images=4, rates=[1e-3])  # does not replace the first
    assert "4 images seen" in other.markdown() and (found.folder / "benchmark.md").read_text() == page
    again = benchmark(tmp_path, train=True, images=8, rates=[1e-3])
    assert again.results["Tiny-setr"] == tiny  # also its latencies: it is not measured again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "give configs, or backbones with heads"),
        ("no_such", "there is no config file 'no_such'"),
        ("detr_swin --modes fp8", "there is no mode 'fp8'"),
        ("detr_swin --rounds 0", "at least 1"),
        ("detr_swin --device tpu9", "device tpu9"),
        ("detr_swin --seeds 0,1", "seeds are for training runs"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments, message, tmp_path, run):
    assert message in run("benchmark", *arguments.split(), "--out", tmp_path / "new", code=2)


def test_the_command_prints_json_alone_and_measures_a_changed_config_again(tmp_path, run):
    given = [
        "scenes/dpt_resnet",
        f"backbone.name={__name__}:Tiny",
        "data.image_size=32",
        "--batches",
        "1",
        "--rounds",
        "5",
        "--device",
        "cpu",
        "--out",
        tmp_path,
        "--json",
        "--quiet",
    ]
    printed = [json.loads(run("benchmark", *given, *width)) for width in ([], ["heads.depth.width=16"])]
    first, second = (one["cases"]["dpt_resnet"]["cost"]["parameters"] for one in printed)
    assert first > second > 193 * 16 + 65 * 32
    (tmp_path / "benchmark.json").write_text("[]")
    assert "expected the results of a benchmark" in run("benchmark", *given, code=2)
