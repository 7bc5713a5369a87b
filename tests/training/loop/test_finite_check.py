"""densevit/training/loop/finite_check.py: NaN in the loss or a gradient ends a training before the update."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

import densevit
from densevit import config as configs
from densevit.errors import TrainingError
from tests.training.process_groups import group, linux
from tests.training.runs import weights

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


@pytest.mark.integration
@pytest.mark.parametrize(("given", "late"), [("trainer.checkpoint_every=1", False), ("trainer.evaluations=6", True)])
def test_nothing_is_written_after_the_fault(given, late, poisoned, tmp_path, monkeypatch):
    """late, as on a GPU: the optimiser leaves out the update by `found_inf`, and the flag is read one step later."""
    from densevit.training.loop import finite_check

    step = step_of(3, poisoned, tmp_path)
    if late:
        monkeypatch.setattr(finite_check, "skips_itself", lambda optimizer: True)
    with pytest.raises(TrainingError, match=rf"^Optimiser step {step}: .*'grey3'"):
        poisoned("backbone.where=gradient", given)
    for path in (tmp_path / "run").rglob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        assert content["global_step"] < step and all(x.isfinite().all() for x in content["state_dict"].values())
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert all(x.isfinite().all() for x in load_file(path).values())


@pytest.mark.integration
def test_scaled_gradients_that_overflow_do_not_stop_fp16(poisoned, tmp_path, monkeypatch):
    """The gradient scaler leaves out the step of the NaN gradient, as it does for an overflow; a NaN loss stops."""
    from pytorch_lightning.plugins.precision import MixedPrecision

    from densevit.training.loop import finite_check, trainer

    scaled = lambda *_: {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}  # noqa: E731
    monkeypatch.setattr(trainer, "trainer_arguments", scaled)  # Lightning has none on a CPU
    poisoned("backbone.where=gradient", run="gradient")
    assert all(x.isfinite().all() for x in weights(tmp_path / "gradient").values())
    with pytest.raises(TrainingError, match="the loss or a gradient is not finite"):
        poisoned(run="loss")
    with (
        mock.patch.multiple(finite_check, _MIN_SCALE=1e9, _STEPS=1),
        pytest.raises(TrainingError, match="step 1: the gradients overflow in fp16, even at a loss scale of"),
    ):
        poisoned("backbone.where=nowhere", run="scale")


def test_optimisers_on_a_cpu_do_not_leave_out_updates_by_themselves():
    from densevit.training.loop.finite_check import skips_itself

    weights = [torch.nn.Parameter(torch.ones(2))]
    optimizers = torch.optim.SGD(weights, 1.0), torch.optim.AdamW(weights, 1.0), torch.optim.Adam(weights, fused=True)
    assert [skips_itself(optimizer) for optimizer in optimizers] == [False] * 3


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
