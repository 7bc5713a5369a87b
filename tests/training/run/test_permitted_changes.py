"""A resumed run whose config selects the best epoch by other metrics."""

import pytest

from densevit.evaluation import metrics_file
from densevit.evaluation.miou import SemanticSegmentation
from tests.training.runs import SEGMENTATION, checkpoint, resume, rows


class Accuracy(SemanticSegmentation):
    main = "aAcc"


pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_drawings")]

BASE = ["trainer.max_epochs=null", "trainer.max_steps=2", "trainer.evaluate_every=0.5", "trainer.monitor=surfaces/aAcc"]
SELECTION = {
    "trainer.monitor": "surfaces/mIoU",
    "heads.surfaces.evaluation.boundary": "true",
    "heads.surfaces.evaluation.name": f"{__name__}:Accuracy",
    "heads.surfaces.evaluation": "null",
}  # fmt: skip


@pytest.mark.parametrize("key", SELECTION)
def test_a_run_with_another_selection_trains_on_and_its_best_epoch_is_chosen_anew(key, copied_run, capsys) -> None:
    run = copied_run(SEGMENTATION, BASE)
    assert checkpoint(run)["callbacks"]["BestModel"]["best"].keys() == {"surfaces/aAcc"}
    changed = ["trainer.monitor=null"] if key.startswith("heads.surfaces.evaluation") else []
    resume(run, ["trainer.max_steps=4", "trainer.evaluate_every=0.25", *changed, f"{key}={SELECTION[key]}"])
    printed, validations = capsys.readouterr().out, [row for row in rows(run) if not row.get("train/loss")]
    assert len(validations) == 4, printed
    assert "Other metrics selected the best epoch so far" in printed, printed
    best = checkpoint(run)["callbacks"]["BestModel"]
    [(monitored, value)] = best["best"].items()
    larger = min if monitored.endswith("loss") else max
    assert value == pytest.approx(larger(float(row[monitored]) for row in validations[2:]), abs=1e-6)
    assert metrics_file.read(run / "metrics.json")[monitored] == value
