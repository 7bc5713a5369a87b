"""A run resumed with other images per step: what is left of its budget, and a progress without jumps."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest

from densevit import config as configs
from densevit.config import OptimSection, TrainerSection
from densevit.training.loop.budget import Budget, Trained
from densevit.training.loop.lr_schedule import schedule
from tests.training.runs import SMALL, assert_same_run, checkpoint, interrupted_after, resume, rows, train

IMAGES = 80  # of the data set
CASES = [  # trainer options; (batch size, accumulate, processes) and the last step of each part; steps in all
    ({"max_epochs": 6}, [(8, 1, 1, 30), (4, 1, 1, None)], 30 + 60),
    ({"max_epochs": 6}, [(8, 1, 1, 35), (4, 1, 1, None)], 35 + 50),  # in the middle of the fourth epoch
    ({"max_epochs": 6}, [(4, 1, 1, 60), (8, 1, 1, None)], 60 + 30),
    ({"max_epochs": 6}, [(8, 1, 1, 30), (8, 2, 1, None)], 30 + 15),
    ({"max_epochs": 6}, [(8, 1, 1, 30), (8, 1, 2, None)], 30 + 15),
    ({"max_epochs": 6}, [(8, 1, 1, 60), (4, 1, 1, None)], 60),  # at its end
    ({"max_epochs": 6}, [(8, 1, 1, 30), (4, 1, 1, 50), (16, 1, 1, None)], 30 + 20 + 10),
    ({"max_images": 480}, [(8, 1, 1, 30), (4, 1, 1, None)], 30 + 60),
    ({"max_images": 480}, [(8, 1, 1, 33), (4, 1, 1, None)], 33 + 54),
    ({"max_images": 480}, [(4, 1, 1, 60), (8, 1, 1, None)], 60 + 30),
    ({"max_images": 480}, [(8, 1, 1, 30), (4, 4, 1, None)], 30 + 15),
    ({"max_images": 480}, [(4, 1, 2, 30), (4, 1, 1, None)], 30 + 60),
    ({"max_images": 480}, [(8, 1, 1, 60), (4, 1, 1, None)], 60),
    ({"max_images": 480}, [(8, 1, 1, 30), (4, 1, 1, 50), (16, 1, 1, None)], 30 + 20 + 10),
    ({"max_steps": 60}, [(8, 1, 1, 30), (4, 1, 1, None)], 60),
    ({"max_steps": 60}, [(8, 1, 1, 30), (4, 2, 2, 40), (8, 1, 1, None)], 60),
]


def parts_of(trainer, parts):
    """The budget of each part with its first step, from checkpoints as a run writes them."""
    trained, budgets = Trained(), []
    for size, accumulate, processes, last in parts:
        batches = IMAGES // (size * processes)
        section = TrainerSection.model_validate({**trainer, "accumulate": accumulate})
        budgets.append((trained.step, Budget.of(section, batches, size, processes, trained)))
        if last is not None:
            share = trained.position / (trained.length or 1) + (last - trained.step) * accumulate / batches
            epoch, position = divmod(round((trained.epoch + share) * batches), batches)
            trained = Trained(last, **budgets[-1][1].state(last), epoch=epoch, position=position, length=batches)
    return budgets


@pytest.mark.parametrize(("trainer", "parts", "steps"), CASES)
def test_the_rest_is_planned_in_images_and_progress_does_not_jump(trainer, parts, steps):
    budgets = parts_of({**trainer, "evaluations": 4}, parts)
    last = budgets[-1][1]
    assert last.steps == steps
    if "max_steps" not in trainer:
        assert last.images == 480
    for section in (
        OptimSection(lr=1.0, schedule="cosine", warmup=0.1),
        OptimSection(lr=1.0, schedule="poly", warmup_steps=45),
        OptimSection(lr=1.0, schedule="step", drop_at=0.4),
    ):
        for (_, before), (step, after) in pairwise(budgets):
            factors = [schedule(section, b.length, b.warmup_scale)(step - b.shift) for b in (before, after)]
            assert factors[1] == pytest.approx(factors[0], abs=0.02)  # (step + 1) / (warmup + 1) rounds
            progress = [(step - b.shift) / b.length for b in (before, after)]
            assert progress[1] == pytest.approx(progress[0])
    starts = [step for step, _ in budgets[1:]] + [steps]
    validated = [
        step
        for (first, budget), end in zip(budgets, starts, strict=True)
        for step in range(first + 1, end + 1)
        if budget.validates_after(step)
    ]
    assert len(validated) == 4


@pytest.mark.parametrize("start", [0.05, 0.4, 0.55, 0.75, 0.9])
@pytest.mark.parametrize(("trainer", "parts", "steps"), CASES)
def test_the_final_phase_begins_at_its_share_of_the_progress(trainer, parts, steps, start):
    """The images of the steps are counted step by step."""
    from densevit.training.loop.data_module import _final_from  # late: it imports Lightning

    ends, images = [last for *_, last in parts[:-1]] + [steps], 0
    for (size, accumulate, processes, _), (first, budget), end in zip(
        parts, parts_of(trainer, parts), ends, strict=True
    ):
        planned = SimpleNamespace(lightning_module=SimpleNamespace(budget=budget))
        final_from = _final_from(planned, start, accumulate)
        for step in range(first, end):
            epoch, image = divmod(images, IMAGES)
            share = step / steps if "max_steps" in trainer else images / 480
            is_final = (epoch, image // (size * processes)) >= final_from
            assert is_final == (share > start - 1e-9), (step, share)
            images += size * accumulate * processes


def test_epochs_of_validations_are_those_of_the_data():
    """Five epochs of ten steps, an epoch of 5 + 10 steps, and an epoch of 20."""
    _, (_, budget) = parts_of({"max_epochs": 7, "evaluate_every_epochs": 1}, [(8, 1, 1, 55), (4, 1, 1, None)])
    assert [step for step in range(56, 100) if budget.validates_after(step)] == [65, 85]
    assert budget.steps == 85


def stopped_run(folder, rate="optim.lr=1e-2"):
    """7 batches of 2 images in an epoch, 4 epochs; stopped after 10 steps."""
    file = folder / "small.yaml"
    file.write_text(SMALL)
    with interrupted_after(10):
        train(configs.load(file, [*BUDGET, rate]), folder / "run")
    return folder / "run"


BUDGET = ["trainer.max_epochs=4", "optim.schedule=cosine", "trainer.evaluate_every_epochs=1"]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("rate", "overrides", "steps", "factor"),
    [
        ("optim.lr=1e-2", ["data.batch_size=1"], 10 + (14 - 6) + 2 * 14, 1),
        ("optim.lr_per_256=1.28", ["data.batch_size=4"], 10 + (3 - 1) + 2 * 3, 2),  # 3 of 7 batches: 1 of 3
        ("optim.lr=1e-2", ["trainer.accumulate=2"], 10 + 2 + 2 * 4, 1),
    ],
)
def test_epochs_and_learning_rate_of_a_resumed_run(rate, overrides, steps, factor, tmp_path, capsys, no_drawings):
    run = stopped_run(tmp_path, rate)
    capsys.readouterr()
    resume(run, overrides)
    printed = capsys.readouterr().out
    assert f"budget: {steps} steps of" in printed
    assert ("The epoch continues at the same share of its images" in printed) == ("data" in overrides[0])
    assert checkpoint(run)["loops"]["fit_loop"]["epoch_progress"]["total"]["ready"] == 4
    rates = [float(row["train/lr"]) for row in rows(run) if row.get("train/lr")]
    assert len(rates) == checkpoint(run)["global_step"] == steps
    rates[10:] = [rate / factor for rate in rates[10:]]
    assert all(a > b for a, b in pairwise(rates[5:]))
    half = 1e-2 * 0.5 * (1 + math.cos(math.pi * (10 / 28 - 0.1) / 0.9))
    assert rates[10] == pytest.approx(half, rel=0.06)
    validated = [int(row["step"]) for row in rows(run) if not row.get("train/loss")]
    assert (len(validated), validated[-1]) == (4, steps)


@pytest.mark.integration
def test_a_run_resumed_twice_continues_to_the_last_bit(tmp_path, no_drawings):
    for name in "ab":
        (tmp_path / name).mkdir()
    once, twice = stopped_run(tmp_path / "a"), stopped_run(tmp_path / "b")
    resume(once, ["data.batch_size=1"])
    with interrupted_after(13):
        resume(twice, ["data.batch_size=1"])
    resume(twice)
    assert_same_run(once, twice)
