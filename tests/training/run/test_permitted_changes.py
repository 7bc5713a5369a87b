"""A resumed run whose config changes: the best epoch starts again exactly where validations cannot be compared."""

import pytest
import yaml

import densevit
from densevit import config as configs
from densevit.evaluation import metrics_file
from densevit.evaluation.miou import SemanticSegmentation
from tests.training.runs import SEGMENTATION, checkpoint, interrupted_after, resume, rows


class Accuracy(SemanticSegmentation):
    main = "aAcc"


BASE = ["trainer.max_epochs=null", "trainer.max_steps=2", "trainer.evaluations=2", "trainer.monitor=surfaces/aAcc"]
VALIDATION = (  # what the metrics of equal weights depend on
    "trainer.monitor=surfaces/mIoU",
    "heads.surfaces.evaluation.boundary=true",
    f"heads.surfaces.evaluation.name={__name__}:Accuracy trainer.monitor=null",
    "heads.surfaces.evaluation=null trainer.monitor=null",
    "heads.surfaces.inference.flip=true",
    "inference.flip=true",
    "data.val_length=2",
    "data.image_size=64",
    "data.on_error=skip",
    "data.transforms=detr",  # resizes the shorter side
)
TRAINING = (
    "data.batch_size=1",
    "data.num_workers=1",
    "data.train_length=3",
    "data.vertical_flip=true",
    "data.transforms=resize",
    "data.multi_scale=[32,48]",
    "data.repeat_factor=0.1",
    "data.mosaic=0.5",
    "data.final_phase.start=0.5 data.final_phase.transforms=resize",
    "data.display=[red]",
    "optim.lr=0.5",
    "trainer.log_every=3",
    "trainer.patience=5",
    "trainer.accumulate=2",
)


@pytest.mark.parametrize(
    ("change", "same"), [*((change, False) for change in VALIDATION), *((change, True) for change in (*TRAINING, ""))]
)
def test_a_change_of_data_evaluation_or_monitor_is_another_validation_and_one_of_training_is_not(change, same):
    from densevit.training.run.resuming import validation_of  # late: it imports Lightning

    config, other = (
        configs.from_mapping(yaml.safe_load(SEGMENTATION), overrides=f"trainer.monitor=surfaces/aAcc {more}".split())
        for more in ("", change)
    )
    written = configs.from_file(configs.values_of_file(configs.dump(other), "config.yaml", trust=True), "config.yaml")
    assert (validation_of(config) == validation_of(written)) == same


def test_nan_is_no_change_of_an_option() -> None:
    from densevit.training.run.resuming import changes  # late: it imports Lightning

    values = yaml.safe_load(SEGMENTATION)
    values["heads"]["surfaces"]["evaluation"] = {"name": f"{__name__}:Accuracy", "limits": [float("nan")]}
    first, second = (configs.from_mapping(yaml.safe_load(yaml.safe_dump(values))) for _ in range(2))
    assert changes(first, second) == {}


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
@pytest.mark.parametrize("changes", [VALIDATION[0], "data.val_length=2"])
def test_the_first_validation_after_the_change_is_the_best(changes, copied_run, capsys):
    run = copied_run(SEGMENTATION, BASE)
    assert checkpoint(run)["callbacks"]["BestModel"]["best"].keys() == {"surfaces/aAcc"}
    before = (run / "metrics.json").read_bytes()
    resume(run, changes.split())  # no steps are left, so nothing is validated or written
    assert "has trained all of its 2 steps, without " in capsys.readouterr().out
    assert (run / "metrics.json").read_bytes() == before
    resume(run, ["trainer.max_steps=4", "trainer.evaluations=4", *changes.split()])
    printed, validations = capsys.readouterr().out, [row for row in rows(run) if not row.get("train/loss")]
    assert len(validations) == 4, printed
    assert "The best epoch so far is of other data or another evaluation" in printed, printed
    [(monitored, value)] = checkpoint(run)["callbacks"]["BestModel"]["best"].items()
    larger = min if monitored.endswith("loss") else max
    assert value == pytest.approx(larger(float(row[monitored]) for row in validations[2:]), abs=1e-6)
    assert metrics_file.read(run / "metrics.json")[monitored] == value


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_metrics_of_the_data_before_are_not_reported_for_the_new_data(copied_run):
    """Stopped before the first validation on the new data, and resumed."""
    run = copied_run(SEGMENTATION, BASE)
    with interrupted_after(3):
        resume(run, ["trainer.max_steps=4", "data.val_length=2"])
    assert metrics_file.read(run / "metrics.json") == densevit.Run(run).tables == {}
    resume(run)
    assert metrics_file.read(run / "metrics.json") == pytest.approx(densevit.evaluate(run), nan_ok=True)
