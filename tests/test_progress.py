"""Progress of long steps on stderr."""

import io
import sys

import pytest

from densevit import progress


def test_steps_are_numbered_lines_outside_of_a_terminal(capsys: pytest.CaptureFixture[str]):
    with progress.steps("Exporting to model.onnx", 2) as begin:
        begin("tracing")
        assert capsys.readouterr().err == "Exporting to model.onnx, step 1 of 2: tracing\n"
        begin("saving")
    assert capsys.readouterr().err == "Exporting to model.onnx, step 2 of 2: saving\n"
    with progress.steps("Exporting", 1, quiet=True) as begin:
        begin("tracing")
    assert capsys.readouterr().err == ""


def test_steps_are_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress.steps("Exporting to [b]model.onnx", 2) as begin:
        begin("tracing")
        begin("saving")
    written = sys.stderr.getvalue()
    assert "Exporting to [b]model.onnx: saving" in written and "1/2" in written
