"""tools/benchmarks/portability.py: what it compares computes the same, and a measurement names the fastest peer."""

import importlib
import os
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


def test_a_measurement_compares_with_the_fastest_other(portability, monkeypatch):
    clock = iter(range(1000))
    delays = {"densevit": 2.0, "torch": 3.0, "peer": 5.0}
    now = [0.0]

    def contestant(name):
        def run():
            now[0] += delays[name] * (1 + next(clock) % 2 / 100)

        return run

    monkeypatch.setattr(portability.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(portability, "contestants", lambda case, low: {name: contestant(name) for name in delays})
    threads = torch.get_num_threads()
    found = portability.measure("a case", "fp32", threads, 100.0)
    assert found["best"] == "torch" and found["ratio"] == pytest.approx(1.5, rel=0.02)
    assert found["rounds"] == 10  # of 10 seconds each


@pytest.mark.integration
def test_each_kind_is_a_process_with_its_own_instructions(portability):
    before = dict(os.environ)
    with portability.processes(["avx2"]) as pools:
        assert pools["avx2"].apply(os.getenv, ("ATEN_CPU_CAPABILITY",)) == "avx2"
        assert pools["avx2"].apply(torch.backends.cpu.get_cpu_capability) != "AVX512"
    assert dict(os.environ) == before
