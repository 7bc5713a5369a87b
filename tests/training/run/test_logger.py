import csv

import pytest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def test_each_call_writes_a_row(path):
    from densevit.training.run.metrics_csv import MetricsCsv

    log = MetricsCsv(path)
    log.log_metrics({"loss": 0.5, "lr": 1e-4}, step=1)
    log.log_metrics({"loss": 0.25, "lr": 1e-5}, step=2)
    assert path.read_text().splitlines() == ["step,loss,lr", "1,0.5,0.0001", "2,0.25,1e-05"]


def test_numbers_are_written_in_full(path):
    from densevit.training.run.metrics_csv import MetricsCsv

    MetricsCsv(path).log_metrics({"loss": 1 / 3}, step=0)
    assert float(MetricsCsv(path).rows()[0]["loss"]) == 1 / 3


def test_new_columns_preserve_existing_rows(path):
    from densevit.training.run.metrics_csv import MetricsCsv

    log = MetricsCsv(path)
    log.log_metrics({"loss": 0.5}, step=1)
    log.log_metrics({"detection/AP": 0.75}, step=1)
    log.log_metrics({"loss": 0.25, "detection/AP": 1.0}, step=2)
    assert path.read_text().splitlines() == ["step,loss,detection/AP", "1,0.5,", "1,,0.75", "2,0.25,1.0"]


def test_resumed_run_appends_to_the_same_file(path):
    from densevit.training.run.metrics_csv import MetricsCsv

    MetricsCsv(path).log_metrics({"loss": 0.5, "lr": 1.0}, step=1)
    resumed = MetricsCsv(path)
    resumed.log_metrics({"lr": 2.0}, step=2)
    resumed.log_metrics({"AP": 3.0}, step=2)
    assert path.read_text().splitlines() == ["step,loss,lr,AP", "1,0.5,1.0,", "2,,2.0,", "2,,,3.0"]


def test_rows_after_the_checkpoint_are_removed(path):
    from densevit.training.run.metrics_csv import MetricsCsv

    log = MetricsCsv(path)
    for step in (0, 50, 100, 150):
        log.log_metrics({"loss": float(step)}, step=step)
    resumed = MetricsCsv(path)
    resumed.remove_after(100)
    assert [row["step"] for row in resumed.rows()] == ["0", "50", "100"]
    resumed.log_metrics({"loss": 7.0}, step=150)
    assert path.read_text().splitlines() == ["step,loss", "0,0.0", "50,50.0", "100,100.0", "150,7.0"]


def test_file_is_created_with_the_first_row(path):
    from densevit.training.run.metrics_csv import MetricsCsv

    log = MetricsCsv(path)
    log.log_hyperparams({"lr": 1})
    assert log.rows() == []
    assert not path.exists()


def test_removing_no_rows_is_allowed(path):
    from densevit.training.run.metrics_csv import MetricsCsv

    log = MetricsCsv(path)
    log.remove_after(10)
    assert log.rows() == []
    log.log_metrics({"loss": 1.0}, step=11)
    assert path.read_text().splitlines() == ["step,loss", "11,1.0"]


def test_names_with_commas_round_trip(path):
    from densevit.training.run.metrics_csv import MetricsCsv

    MetricsCsv(path).log_metrics({'AP/a, "b"': 1.0}, step=1)
    with path.open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"step": "1", 'AP/a, "b"': "1.0"}]
