"""NaN in the loss or a gradient: the report, what is not written after it, and the layer's name on request."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import densevit
from densevit import config as configs
from densevit import registry
from densevit.errors import DensevitError, TrainingError
from densevit.losses.matching import assign
from tests.training.process_groups import group, linux
from tests.training.runs import assert_same, interrupted_after, weights

pytestmark = pytest.mark.usefixtures("no_drawings")
POISONED = """
backbone: {name: "tests.training.poisoned:Poisoned", image: 3, where: output}
heads: {seg: {name: setr, decoder: naive, width: 8, norm: batch, auxiliary: [], dropout: 0.0}}
data: {name: "tests.training.poisoned:Greys", image_size: 16, batch_size: 1, num_workers: 0, transforms: resize}
optim: {lr: 1e-2, schedule: constant}
trainer: {max_steps: 6, precision: "32", accelerator: cpu, devices: 1, log_every: 1, loggers: []}
"""


@pytest.fixture
def poisoned(tmp_path: Path) -> Callable[..., "densevit.Run"]:
    """`poisoned(*overrides, run="run")` trains with POISONED."""
    path = tmp_path / "poisoned.yaml"
    path.write_text(POISONED)
    return lambda *overrides, run="run": densevit.fit(configs.load(path, overrides), run_dir=tmp_path / run)


def step_of(image: int, poisoned: Callable[..., "densevit.Run"], tmp_path: Path) -> int:
    """The optimiser step with this image, in a run without NaN."""
    from densevit.data.data_builder import build_data

    loader = build_data(configs.load(tmp_path / "poisoned.yaml")).train_loader()
    ids = [batch["targets"][0]["image_id"] for batch in loader]
    return ids.index(f"grey{image}") + 1


@pytest.mark.parametrize("where", ["output", "gradient"])
def test_training_stops_before_the_update_and_names_the_layer_on_request(where, poisoned, tmp_path):
    """Training is exact, so that a run resumed from its last checkpoint repeats the step."""
    step = step_of(3, poisoned, tmp_path)
    said = (
        rf"^Optimiser step {step}: the loss or a gradient is not finite\. Losses: seg/cross_entropy .*'grey3'\. Fix: "
    )
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=said):
        poisoned(f"backbone.where={where}", "trainer.checkpoint_every=1")
    with pytest.raises(TrainingError, match=said):
        densevit.fit(resume=run)
    named = rf"{'gradient of the input' if where == 'gradient' else 'output'} of model\.backbone\.poison \(Poison\)"
    with pytest.raises(TrainingError, match=rf"in the {named}, torch\.float32 \(1, 8, 8, 8\): 512 NaN and 0 "):
        densevit.fit(None, ["trainer.detect_anomaly=true"], resume=run)
    assert not list(run.rglob("*.partial"))


CASES = {
    "before a checkpoint": ["trainer.checkpoint_every=1"],
    "before a validation": ["trainer.evaluate_every=0.1666"],
    "in the last step": [],
    "at a signal": [],
}


@pytest.mark.parametrize("late", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_written_after_the_fault(case, late, poisoned, tmp_path, monkeypatch):
    """gpu: the optimiser leaves out the update by `found_inf`, and the flag is read one step later."""
    step = step_of(3, poisoned, tmp_path)
    given = ["backbone.where=gradient", *CASES[case], f"trainer.max_steps={step if case == 'in the last step' else 6}"]
    if late:
        monkeypatch.setattr("densevit.training.loop.finite_check.skips_itself", lambda optimizer: True)
    signal = interrupted_after(step) if case == "at a signal" else nullcontext()
    with signal, pytest.raises(TrainingError, match=rf"^Optimiser step {step}: .*'grey3'"):
        poisoned(*given)
    for path in (tmp_path / "run").rglob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        assert content["global_step"] < step and all(x.isfinite().all() for x in content["state_dict"].values())
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert all(x.isfinite().all() for x in load_file(path).values())


def test_weights_are_those_before_the_fault(poisoned, tmp_path, monkeypatch):
    step = step_of(3, poisoned, tmp_path)
    poisoned(f"trainer.max_steps={step - 1}", run="before")
    with pytest.raises(TrainingError):
        poisoned("trainer.checkpoint_every=1", run="stopped")
    assert_same(weights(tmp_path / "stopped"), weights(tmp_path / "before"))


def test_scaled_gradients_that_overflow_do_not_stop_fp16(poisoned, tmp_path, monkeypatch):
    """The gradient scaler leaves out the step of the NaN gradient, as it does for an overflow; a NaN loss stops."""
    from pytorch_lightning.plugins.precision import MixedPrecision

    scaled = lambda *_: {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}  # noqa: E731
    monkeypatch.setattr("densevit.training.loop.trainer.trainer_arguments", scaled)  # Lightning has none on a CPU
    poisoned("backbone.where=gradient", run="gradient")
    assert all(x.isfinite().all() for x in weights(tmp_path / "gradient").values())
    with pytest.raises(TrainingError, match="the loss or a gradient is not finite"):
        poisoned(run="loss")
    monkeypatch.setattr("densevit.training.loop.finite_check._MIN_SCALE", 1e9)
    monkeypatch.setattr("densevit.training.loop.finite_check._STEPS", 1)
    with pytest.raises(TrainingError, match="step 1: the gradients overflow in fp16, even at a loss scale of"):
        poisoned("backbone.where=nowhere", run="scale")


@pytest.mark.integration
@linux
@pytest.mark.usefixtures("poisoned")
def test_nan_in_one_of_two_processes_ends_both(tmp_path):
    given = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_steps=4", "--run-dir", "stopped"]
    stopped = [command.ended() for command in group("train", "poisoned.yaml", *given, folder=tmp_path)]
    errors = stopped[0].errors + stopped[1].errors
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    assert stopped[0].code == stopped[1].code == 2 and len(lines) == 1, errors
    assert "Process 0: Losses: " in lines[0] and "Process 1: Losses: " in lines[0] and "'grey3'" in lines[0]


def test_costs_that_are_not_finite_are_replaced_only_where_allowed():
    cost = torch.tensor([[[0.5, float("nan"), float("inf")]]])
    with pytest.raises(DensevitError, match="the image"):
        assign(cost, [1], ["the image"], strict=True)
    assert assign(cost, [1], ["the image"], strict=False).query.tolist() == [[0]]


def test_only_torchs_fused_adam_on_a_gpu_leaves_out_the_update_by_itself():
    """A subclass with its own step, as Muon's, would ignore `found_inf`."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from densevit.training.loop.finite_check import skips_itself

    with FakeTensorMode(allow_non_fake_inputs=True):
        groups = [{"params": [torch.nn.Parameter(torch.zeros(2, 2, device="cuda"))], "fused": True}]
        adam = [torch.optim.Adam(groups), torch.optim.AdamW(groups)]
        others = [torch.optim.AdamW([{**groups[0], "fused": False}]), torch.optim.SGD(groups, lr=0.1)]
        others.append(registry.create("optimizers", "muon", groups, options={}, where="optim"))
        assert all(map(skips_itself, adam)) and not any(map(skips_itself, others))
