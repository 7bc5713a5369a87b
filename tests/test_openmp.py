"""Idle threads release their cores soon only where other processes run, never against the user's settings."""

import os
from pathlib import Path

import pytest

from densevit.openmp import seconds_waited, shorten_waits_beside_other_work


@pytest.mark.parametrize(
    ("running", "given", "expected"),
    [
        (1, {}, None),  # the caller alone
        (2, {}, "1000"),  # as many threads as cores, and another process
        (2, {"OMP_NUM_THREADS": "1"}, None),  # a free core for each
        (2, {"GOMP_SPINCOUNT": "7"}, "7"),
        (2, {"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_wait_briefly_beside_other_processes(running, given, expected, tmp_path: Path, monkeypatch):
    cores = os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(cores)} | given
    monkeypatch.setattr(os, "environ", environment)
    load = tmp_path / "loadavg"
    load.write_text(f"0.50 0.40 0.30 {running}/345 678\n")
    shorten_waits_beside_other_work(load)
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_systems_without_a_count_of_running_threads_keep_their_setting(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "1024"})
    shorten_waits_beside_other_work(tmp_path / "missing")
    assert "GOMP_SPINCOUNT" not in os.environ


def test_seconds_waited_are_those_of_all_threads(tmp_path: Path):
    for thread, text in (("8", "5000000000 1500000000 12\n"), ("9", "1 500000000 1\n"), ("10", None)):
        (tmp_path / thread).mkdir()
        if text:
            (tmp_path / thread / "schedstat").write_text(text)
    assert seconds_waited(tmp_path) == 2.0
    assert seconds_waited(tmp_path / "missing") == 0.0
