"""tools/benchmarks/portability.py: what it compares computes the same, and a measurement names the fastest peer."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

import densevit
from densevit.layers.fast.replacement import replace_layers


@pytest.fixture(scope="module")
def portability(project: Path) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(project / "tools" / "benchmarks")
        return importlib.import_module("portability")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("swin", {"variant": "nano", "window_size": 4}),
        ("resnet", {"depth": 18, "norm": "frozen"}),
    ],
)
def test_plain_torch_gives_the_same_features_and_gradients(name, options, portability):
    backbone = densevit.create_backbone(name, **options).eval()
    images = torch.randn(2, 3, 70, 90)

    def run() -> list[torch.Tensor]:
        features = backbone(images)
        loss = torch.stack([x.square().mean() for x in features]).sum()
        return [*features, *torch.autograd.grad(loss, [p for p in backbone.parameters() if p.requires_grad])]

    theirs: list[torch.Tensor] = []
    portability.plainly(lambda: theirs.extend(run()))()
    replace_layers(backbone)
    ours = run()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
