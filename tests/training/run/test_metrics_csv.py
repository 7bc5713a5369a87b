"""metrics.csv: rows, columns that come later, and a run that goes on."""

import csv
from pathlib import Path


def test_each_call_writes_a_row_in_full_and_new_columns_preserve_the_rows_before(tmp_path: Path) -> None:
    from densevit.training.run.metrics_csv import MetricsCsv

    log = MetricsCsv(tmp_path / "metrics.csv")
    log.log_hyperparams({"lr": 1})
    assert log.rows() == [] and not log.path.exists()  # created with the first row
    log.log_metrics({"loss": 1 / 3, 'AP/a, "b"': 1e-05}, step=1)
    MetricsCsv(log.path).log_metrics({"AP": 0.75}, step=1)  # of a resumed run
    MetricsCsv(log.path).log_metrics({"loss": 0.25, "AP": 1.0}, step=2)
    assert log.path.read_text().splitlines()[1:] == [f"1,{1 / 3!r},1e-05,", "1,,,0.75", "2,0.25,,1.0"]
    with log.path.open(newline="") as file:
        assert next(csv.DictReader(file)) == {"step": "1", "loss": repr(1 / 3), 'AP/a, "b"': "1e-05", "AP": ""}


def test_rows_after_the_checkpoint_and_the_incomplete_line_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    """Also in a file of an older version, which lacks columns."""
    from densevit.training.run.metrics_csv import MetricsCsv

    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss,epoch,AP\n0,2.5,0,\n1,,0,0.25\n1,2.0,0,\n2,1.0,0,\n3,0.12")
    log = MetricsCsv(path)
    assert [row["step"] for row in log.rows()] == ["0", "1", "1", "2"]
    log.remove_after(1)  # resumed from the checkpoint of step 1
    log.log_metrics({"train/loss": 1.5, "wait": 0.5}, step=1)
    found = [(row["step"], row["train/loss"], row["AP"], row["wait"]) for row in MetricsCsv(log.path).rows()]
    assert found == [("0", "2.5", "", ""), ("1", "", "0.25", ""), ("1", "1.5", "", "0.5")]
    empty = MetricsCsv(tmp_path / "empty.csv")
    empty.remove_after(10)
    empty.log_metrics({"loss": 1.0}, step=11)
    assert empty.path.read_text().splitlines() == ["step,loss", "11,1.0"]
