"""NaN in the loss or a gradient: the report, its repetition by a resumed run, and skipped steps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import densevit
from densevit import config as configs
from densevit import registry
from densevit.errors import DensevitError, TrainingError
from densevit.losses.matching import finite_costs
from tests.training.process_groups import group, linux
from tests.training.runs import assert_same, rows, weights

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
    from densevit.data.build import build_data

    loader = build_data(configs.load(tmp_path / "poisoned.yaml")).train_loader()
    ids = [batch["targets"][0]["image_id"] for batch in loader]
    return ids.index(f"grey{image}") + 1


@pytest.mark.parametrize("where", ["output", "gradient"])
def test_stop_names_the_layer_with_its_tensors(where, poisoned, tmp_path):
    step = step_of(3, poisoned, tmp_path)
    with pytest.raises(TrainingError) as raised:
        poisoned(f"backbone.where={where}")
    message = str(raised.value)
    assert message.startswith(
        f"Optimiser step {step}: the loss or a gradient is not finite. "
        f"The first non-finite {where} is that of model.backbone.poison (Poison): "
    )
    assert "float32 (1, 8, 8, 8), 512 NaN of 512 values. Losses: seg/cross_entropy " in message
    assert "Images: 'grey3'. Fix: lower optim.lr" in message
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_resumed_run_repeats_the_step(poisoned, tmp_path):
    """Training is exact, so that the last checkpoint and the data repeat a step without a file of its own."""
    step = step_of(3, poisoned, tmp_path)
    messages = []
    for train in (lambda: poisoned("trainer.checkpoint_every=1"), lambda: densevit.fit(resume=tmp_path / "run")):
        with pytest.raises(TrainingError) as raised:
            train()
        messages.append(str(raised.value))
    assert messages[0] == messages[1] and messages[0].startswith(f"Optimiser step {step}: ")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("where", "given"),
    [
        ("gradient", ("trainer.clip_grad_norm=0.1", "trainer.accumulate=2", "trainer.max_steps=4")),
        ("output", ("optim.name=muon",)),
    ],
    ids=["adamw", "muon"],
)
def test_skip_gives_the_weights_of_a_run_without_the_step(where, given, poisoned, tmp_path, capsys):
    from tests.training.own_callbacks import Undo

    accumulate = 2 if "trainer.accumulate=2" in given else 1
    step = (step_of(3, poisoned, tmp_path) + accumulate - 1) // accumulate
    given = ("trainer.non_finite=skip", *given)
    poisoned(f"backbone.where={where}", *given)
    assert "1 step of " in capsys.readouterr().out
    config = configs.load(tmp_path / "poisoned.yaml", ["backbone.where=nowhere", *given])
    densevit.fit(config, run_dir=tmp_path / "reference", callbacks=[Undo(step)])
    assert_same(weights(tmp_path / "run"), weights(tmp_path / "reference"))
    skipped = [int(row["train/skipped_steps"]) for row in rows(tmp_path / "run") if row["train/loss"]]
    assert skipped == [int(i >= step) for i in range(1, len(skipped) + 1)]


@pytest.mark.integration
def test_flag_read_one_step_later(poisoned, tmp_path, monkeypatch):
    from tests.training.own_callbacks import Late

    where = "gradient"
    step = step_of(3, poisoned, tmp_path)
    poisoned(f"backbone.where={where}", "trainer.non_finite=skip", run="skipped")
    poisoned(f"trainer.max_steps={step - 1}", run="before")
    monkeypatch.setattr("densevit.training.run.fit.FiniteCheck", Late)
    poisoned(f"backbone.where={where}", "trainer.non_finite=skip", run="late")
    assert_same(weights(tmp_path / "late"), weights(tmp_path / "skipped"))
    with pytest.raises(TrainingError, match=rf"^Optimiser step {step}: .*model\.backbone\.poison .*'grey3'"):
        poisoned(f"backbone.where={where}", "trainer.checkpoint_every=1", run="stopped")
    last = torch.load(tmp_path / "stopped" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == step - 1  # not written after the fault
    assert_same(last["state_dict"], weights(tmp_path / "before"))


def test_scaled_gradients_that_overflow_do_not_stop_fp16(poisoned, tmp_path, monkeypatch):
    """The gradient scaler leaves out the step of the NaN gradient, as it does for an overflow; a NaN loss stops."""
    from pytorch_lightning.plugins.precision import MixedPrecision

    scaled = lambda *_: {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}  # noqa: E731
    monkeypatch.setattr("densevit.training.loop.trainer.trainer_arguments", scaled)  # Lightning has none on a CPU
    poisoned("backbone.where=gradient", run="gradient")
    assert all(x.isfinite().all() for x in weights(tmp_path / "gradient").values())
    with pytest.raises(TrainingError, match="model.backbone.poison"):
        poisoned(run="loss")
    monkeypatch.setattr("densevit.training.loop.finite_check._MIN_SCALE", 1e9)
    with pytest.raises(TrainingError, match="step 1: the gradients overflow in fp16, even at a loss scale of"):
        poisoned("backbone.where=nowhere", run="scale")


@pytest.mark.integration
@linux
@pytest.mark.usefixtures("poisoned")
def test_nan_in_one_of_two_processes(tmp_path):
    """Each process sees half of the images; both end, or both leave out the step."""
    given = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_steps=4"]

    def run(*extra):
        commands = group("train", "poisoned.yaml", *given, "--run-dir", *extra, folder=tmp_path)
        return [command.ended() for command in commands]

    stopped = run("stopped")
    errors = stopped[0].errors + stopped[1].errors
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    assert stopped[0].code == stopped[1].code == 2 and len(lines) == 1, errors
    assert "model.backbone.poison (Poison)" in lines[0] and "Images: 'grey3'" in lines[0]
    skipped = run("skipped", "trainer.non_finite=skip", "backbone.where=gradient")
    assert skipped[0].code == skipped[1].code == 0, skipped[0].errors
    assert "1 step of 4 skipped" in skipped[0].output
    assert all(x.isfinite().all() for x in weights(tmp_path / "skipped").values())


def test_costs_that_are_not_finite_are_replaced_only_where_allowed():
    matrix = np.array([[[0.5, np.nan, np.inf]]])
    with pytest.raises(DensevitError, match="the image"):
        finite_costs(matrix, lambda: "the image", strict=True)
    assert finite_costs(matrix, lambda: "the image", strict=False).tolist() == [[[0.5, 1e6, 1e6]]]


def test_only_steps_of_torchs_adam_skip_themselves() -> None:
    """On a GPU: a subclass with its own step, as Muon's, would ignore `found_inf`."""
    from densevit.training.loop.finite_check import _is_adam

    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]}]
    adam = [registry.create("optimizers", name, groups, options={}, where="optim") for name in ("adam", "adamw")]
    others = [registry.create("optimizers", name, groups, options={}, where="optim") for name in ("sgd", "muon")]
    assert all(map(_is_adam, [*adam, torch.optim.AdamW(groups), torch.optim.Adam(groups)]))
    assert not any(map(_is_adam, others))
