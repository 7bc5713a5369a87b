"""The tutorials run on small budgets, and the saved notebooks hold the outputs of a complete run."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.integration

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
NAMES = ("depth", "export_and_serve", "own_backbone", "own_detector", "own_task")


@pytest.fixture(scope="module")
def tool(project: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_tutorials", project / "tools" / "docs" / "run_tutorials.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, str]]:
    """`run(name, IMAGES=16)` executes a notebook. Returns the folder that it wrote to, and its outputs as text."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for variable in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):  # no kernels or history of the user's
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(name: str, **budgets: object) -> tuple[Path, str]:
        notebook = tool.with_budgets(read(name), budgets)
        tool.execute(notebook, tmp_path, timeout=300)
        [folder] = tmp_path.glob(f"{name}_*")
        return folder, "\n".join(text for cell in code_cells(notebook) for text in texts(cell))

    return run


def read(name: str) -> Any:
    return nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: Any) -> list[str]:
    """The outputs of a cell that are text."""
    found = []
    for output in cell.outputs:
        data = output.get("data", {})
        found += [output.get("text", ""), *(text for kind, text in data.items() if kind.startswith("text/"))]
    return found


def rows(text: str, first: str) -> list[list[str]]:
    """The rows of the displayed tables with this first cell."""
    cells = [[cell.strip() for cell in line.strip("| ").split(" |")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in cells if row[0] == first]


def test_own_detector(run: Callable[..., tuple[Path, str]]):
    folder, text = run("own_detector", IMAGES=16, MORE=24)
    metrics = json.loads((folder / "runs" / "first" / "metrics.json").read_text())
    assert 0 <= metrics["detection/AP"] <= 1
    assert (folder / "runs" / "first" / "report.html").is_file() and (folder / "doctor.html").is_file()
    assert "identical images in several splits" in text and "boxes partly outside of their image" in text
    [missed] = rows(text, "missed")
    assert 0 <= float(missed[1]) <= 1 and int(missed[2]) >= 0
    [after] = [row for row in rows(text, "AP50") if len(row) == 3]
    assert float(after[2]) == pytest.approx(metrics["detection/AP50"], abs=1e-3)


def test_own_backbone(run: Callable[..., tuple[Path, str]]):
    folder, text = run("own_backbone", IMAGES=16)
    assert "29 checks passed" in text and "ceil(size / stride)" in text
    assert "'densevit.backbones': '\\nmynet = mynet:Mynet'" in text
    for name in ("MyNet", "swin"):
        [scores] = rows(text, name)
        assert 0 <= float(scores[2]) <= 1
        metrics = json.loads((folder / "benchmark" / "trainings" / f"{name}-setr" / "run" / "metrics.json").read_text())
        assert float(scores[2]) == pytest.approx(metrics["setr/mIoU"], abs=1e-3)
    assert (folder / "comparison.html").is_file() and "<svg" in (folder / "benchmark" / "benchmark.svg").read_text()


def test_depth(run: Callable[..., tuple[Path, str]]):
    folder, text = run("depth", IMAGES=16, TUNING=16)
    assert "data.scale is missing" in text
    [tuned] = rows(text, "fine-tuned")
    assert all(float(cell) >= 0 for cell in tuned[1:]) and len(tuned) == 5
    assert len(rows(text, "base")[-1]) == 5
    assert (folder / "cloud.ply").read_bytes().startswith(b"ply\n")
    assert (folder / "runs" / "tuned" / "metrics.json").is_file()


def test_own_task(run: Callable[..., tuple[Path, str]]):
    folder, text = run("own_task", IMAGES=16)
    metrics = json.loads((folder / "runs" / "arrows" / "metrics.json").read_text())
    assert 0 <= metrics["arrows/PCK"] <= 1 and "arrows/PCK/tip" in metrics
    assert "'PCK': 0.375" in text  # of the case that is worked by hand
    assert "29 checks passed" in text


def test_export_and_serve(run: Callable[..., tuple[Path, str]], tmp_path: Path):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    config = tmp_path / "small.yaml"  # a ResNet is traced faster than a Swin
    config.write_text("base: detr_swin\nbackbone: {name: resnet, depth: 18}\nheads: {detection: {fusion_blocks: 1}}\n")
    folder, text = run("export_and_serve", IMAGES=16, REQUESTS=3, MODEL=repr(str(config)))
    assert (folder / "detr.onnx").is_file()
    assert "400 {'error': 'expected an image file'}" in text
    assert [len(row) for row in rows(text, "ONNX file over HTTP")] == [3]
    for row in (row for photo in range(1, 5) for row in rows(text, f"{photo:06}.jpg")):
        assert float(row[4]) == pytest.approx(float(row[3]), abs=0.02)  # the scores of the file and the model


# ---- the saved files ----


def test_all_notebooks_are_tested_and_in_the_index():
    assert sorted(path.stem for path in TUTORIALS.glob("*.ipynb")) == sorted(NAMES)
    assert sorted(re.findall(r"\]\((\w+)\.ipynb\)", (TUTORIALS / "index.md").read_text())) == sorted(NAMES)
    assert sum(path.stat().st_size for path in TUTORIALS.iterdir() if path.is_file()) < 1.5e6


@pytest.mark.parametrize("name", NAMES)
def test_saved_notebooks_hold_the_outputs_of_one_complete_run(name: str):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (TUTORIALS / f"{name}.ipynb").stat().st_size < 600_000
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any("execution" in cell.metadata for cell in cells)  # timestamps
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert all(len(image) < 100_000 for output in outputs for image in images(output))
    text = "\n".join(text for cell in cells for text in texts(cell))
    assert not re.search(r"(?<![\w.:/])/(tmp|home|root|Users|usr|opt|work|mnt)/|[━╸]|UserWarning", text)


def images(output: Any) -> list[str]:
    return [value for kind, value in output.get("data", {}).items() if kind in ("image/jpeg", "image/png")]


def test_a_budget_that_a_notebook_does_not_have_is_an_error(tool: ModuleType):
    assert "IMAGES = 16 " in code_cells(tool.with_budgets(read("depth"), {"IMAGES": 16}))[0].source
    with pytest.raises(KeyError, match="STEPS"):
        tool.with_budgets(read("depth"), {"STEPS": 1})
