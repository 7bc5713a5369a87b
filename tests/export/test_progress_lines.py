"""Progress of long steps on stderr."""

import pytest

from densevit_export.exporting import progress_lines


def test_steps_are_numbered_lines(capsys: pytest.CaptureFixture[str]):
    begin = progress_lines("Exporting to model.onnx", 2)
    begin("tracing")
    assert capsys.readouterr().err == "Exporting to model.onnx, step 1 of 2: tracing\n"
    begin("saving")
    assert capsys.readouterr().err == "Exporting to model.onnx, step 2 of 2: saving\n"
    progress_lines("Exporting", 1, quiet=True)("tracing")
    assert capsys.readouterr().err == ""
