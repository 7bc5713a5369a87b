"""Training precision: automatic selection; each precision trains each head without casting targets."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from densevit import config as configs
from densevit.evaluation.coco_ap import CocoDetection
from densevit.evaluation.depth_errors import DepthErrors
from densevit.interfaces import Predictions, Targets
from densevit.layers.fast import hardware
from tests.training.run.test_several_tasks import BASE, DETECTION, SURFACES
from tests.training.runs import rows, train


class Machine:
    """Mocks the hardware."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        self.has(cpu="")

    def has(
        self, gpu_bf16: bool | None = None, mps: bool = False, cpu: str | None = "", capability: str = "AVX512"
    ) -> None:
        """gpu_bf16: None for no GPU. cpu: its flags, None without /proc/cpuinfo. capability: the instructions that
        torch uses."""

        def read_text(path: Path, *args: object, **kwargs: object) -> str:
            assert path == Path("/proc/cpuinfo")
            if cpu is None:
                raise FileNotFoundError(path)
            return f"processor\t: 0\nflags\t\t: fpu sse avx512f {cpu}\nbugs\t: none\n"

        self.patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        self.patch.setattr(torch.cuda, "is_available", lambda: gpu_bf16 is not None)
        self.patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or gpu_bf16)
        self.patch.setattr(torch.backends.mps, "is_available", lambda: mps)
        self.patch.setattr(hardware.Path, "read_text", read_text)
        hardware._cpu_words.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    yield Machine(monkeypatch)
    hardware._cpu_words.cache_clear()


@pytest.mark.parametrize(
    ("has", "accelerators", "expected"),
    [
        ({"gpu_bf16": True}, ("auto", "gpu", "cuda"), "bf16-mixed"),
        ({"gpu_bf16": False}, ("auto", "gpu"), "16-mixed"),  # emulated
        ({"gpu_bf16": True}, ("cpu",), "32-true"),
        ({"gpu_bf16": False, "cpu": "amx_bf16"}, ("cpu",), "bf16-mixed"),
        ({"cpu": "avx512_bf16"}, ("auto", "cpu"), "bf16-mixed"),
        ({"cpu": "asimd bf16", "capability": "DEFAULT"}, ("cpu",), "bf16-mixed"),  # ARM
        ({"cpu": "avx512_bf16x avx512_vnni"}, ("auto", "cpu"), "32-true"),
        ({"cpu": "avx512_bf16", "capability": "AVX2"}, ("cpu",), "32-true"),  # as by ATEN_CPU_CAPABILITY=avx2
        ({"cpu": None}, ("auto", "cpu"), "32-true"),
        ({"mps": True, "cpu": None}, ("auto", "mps", "gpu"), "32-true"),
    ],
)
def test_the_automatic_precision_is_what_the_hardware_computes_natively(has, accelerators, expected, machine):
    from densevit.training.loop.training_precision import resolve

    machine.has(**has)
    for accelerator in accelerators:
        assert resolve("auto", accelerator) == expected
    assert [resolve(name) for name in ("32", "16-mixed", "bf16-true")] == ["32", "16-mixed", "bf16-true"]


class TruthDetection(CocoDetection):
    """Evaluates the ground truth as the prediction: AP is 1 unless one of the two is cast."""

    def batch_records(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> Any:
        assert all(prediction["boxes"].dtype == torch.float32 for prediction in predictions)
        given = [{**truth, "scores": torch.ones(len(truth["labels"]))} for truth in truths]
        return super().batch_records(given, truths)


class TruthDepth(DepthErrors):
    """The same for depth, which is float32 in the scenes."""

    def record(self, prediction: Predictions, truth: Targets) -> Any:
        assert truth["depth"].dtype == torch.float32
        return super().record(prediction, truth)


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_half_precision_trains_every_head_without_casting_targets(tmp_path: Path) -> None:
    boxes = {
        **DETECTION,
        "extensions": {**DETECTION["extensions"], "position_bias": True, "two_stage": True},
        "evaluation": {"name": f"{__name__}:TruthDetection"},
    }
    small = {"width": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 16}
    depth: dict[str, Any] = {"name": "dpt", "width": 8, "evaluation": {"name": f"{__name__}:TruthDepth"}}
    heads = {
        "boxes": boxes,
        "plain": {"name": "detr", "num_queries": 4, "transformer": small},
        "relative": {"name": "dpt", "width": 8},
        **{output: {**depth, "output": output, "max_depth": 60.0} for output in ("sigmoid", "bins", "inverse")},
        "mask": {"name": "dpt_segmentation", "width": 8},
        "weighted": {**SURFACES, "class_weights": [1.0 + c / 8 for c in range(12)]},
    }
    trainer = {"max_steps": 1, "precision": "bf16-true", "accelerator": "cpu"}
    data = {**BASE["data"], "masks": False, "train_length": 2}
    run = train(configs.from_mapping({**BASE, "data": data, "heads": heads, "trainer": trainer}), tmp_path / "run")
    assert json.loads((run / "metrics.json").read_text())["boxes/AP"] == pytest.approx(1, abs=1e-9)
    losses = [float(row["train/loss"]) for row in rows(run) if row["train/loss"]]
    assert losses and torch.isfinite(torch.tensor(losses)).all()
