"""Progress of long steps on stderr."""

import pytest

from densevit import progress
from densevit.data.datasets import file_checks


def test_steps_are_numbered_lines(capsys: pytest.CaptureFixture[str]):
    begin = progress.steps("Exporting to model.onnx", 2)
    begin("tracing")
    assert capsys.readouterr().err == "Exporting to model.onnx, step 1 of 2: tracing\n"
    begin("saving")
    assert capsys.readouterr().err == "Exporting to model.onnx, step 2 of 2: saving\n"
    progress.steps("Exporting", 1, quiet=True)("tracing")
    assert capsys.readouterr().err == ""


def test_loops_show_bars_in_a_notebook(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(file_checks, "_MANY", 0)
    assert list(progress.track(iter("abc"), "Reading <x>", 3)) == ["a", "b", "c"]
    assert "Reading <x>:   0%" in capsys.readouterr().err
    checked: list[int] = []
    file_checks.for_each(100, checked.append, "Validating images")
    assert sorted(checked) == list(range(100)) and "Validating images:   0%" in capsys.readouterr().err
