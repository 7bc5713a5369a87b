"""Progress of long steps on stderr."""

import pytest

from densevit import progress


def test_steps_are_numbered_lines(capsys: pytest.CaptureFixture[str]):
    begin = progress.steps("Exporting to model.onnx", 2)
    begin("tracing")
    assert capsys.readouterr().err == "Exporting to model.onnx, step 1 of 2: tracing\n"
    begin("saving")
    assert capsys.readouterr().err == "Exporting to model.onnx, step 2 of 2: saving\n"
    progress.steps("Exporting", 1, quiet=True)("tracing")
    assert capsys.readouterr().err == ""
