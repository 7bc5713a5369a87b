"""Progress bars in a notebook, where stderr is not a terminal."""

import sys
from pathlib import Path

import pytest

from densevit import progress, terminal
from densevit.data.datasets import dataset_validation

TRAINING = """
import densevit
small = ["trainer.max_images=32", "data.val_length=4", "data.num_workers=0", "trainer.precision=32"]
run = densevit.fit("setr_vit", small, run_dir="run")
"""


@pytest.mark.integration
def test_training_and_evaluation_show_bars_and_a_run_its_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for variable in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):  # no kernels or history of the user's
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    cells = [nbformat.v4.new_code_cell(source) for source in (TRAINING, "run", "len(densevit.evaluate(run))")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()

    training, run, evaluation = (
        "".join(one.get("text", "") or one.data.get("text/html", "") for one in cell.outputs) for cell in cells
    )
    steps = [line for line in training.split("\r") if line.startswith("Training: ")]
    assert "0/4" in steps[0] and "100%" in steps[-1] and "4/4" in steps[-1] and "loss=" in steps[-1]
    assert "\rValidating: " in training
    assert run.startswith('<div class="densevit">') and "mIoU" in run
    assert "\rEvaluating: " in evaluation


def test_loops_show_bars_in_a_notebook(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for module in (progress, dataset_validation):
        monkeypatch.setattr(module, "in_notebook", lambda: True)
    monkeypatch.setattr(dataset_validation, "_PATIENCE", 0.0)
    assert list(progress.track(iter("abc"), "Reading <x>", 3)) == ["a", "b", "c"]
    assert "Reading <x>:   0%" in capsys.readouterr().err
    checked: list[int] = []
    dataset_validation.for_each(100, checked.append, "Validating images")
    assert sorted(checked) == list(range(100)) and "Validating images:   0%" in capsys.readouterr().err


def test_a_program_is_not_in_a_notebook():
    assert not terminal.in_notebook()
