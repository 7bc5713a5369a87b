"""The tutorials run on small budgets."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
JUPYTER = ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")  # the user's kernels and history
SMALLER = {  # data sets of a few images
    "depth": {"--count 80": "--count 8"},
    "own_detector": {"--count 200 --size 192": "--count 20 --size 96"},
    "own_backbone": {"rounds=10": "rounds=1"},
}


@pytest.fixture(scope="module")
def tool(project: Path) -> ModuleType:
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package)
    spec = importlib.util.spec_from_file_location("run_tutorials", project / "tools" / "docs" / "run_tutorials.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kernel(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A kernel and its folder for temporary files. All notebooks use it, because a new one imports PyTorch again."""
    folder = tmp_path_factory.mktemp("tutorials")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        for variable in JUPYTER:
            patch.setenv(variable, str(folder / "jupyter"))
        patch.delenv("JUPYTER_PATH", raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        started = tool.started(folder)
        yield started, folder
        started.shutdown_kernel(now=True)


@pytest.fixture
def run(tool: ModuleType, kernel: tuple[Any, Path]) -> Callable[..., tuple[Path, str]]:
    """`run(name, IMAGES=16)` executes a notebook. Returns the folder that it wrote to, and its outputs as text."""
    manager, folder = kernel

    def run(name: str, **budgets: object) -> tuple[Path, str]:
        notebook = tool.with_budgets(read(name), budgets)
        for text, smaller in SMALLER.get(name, {}).items():
            [cell] = [cell for cell in code_cells(notebook) if text in cell.source]
            cell.source = cell.source.replace(text, smaller)
        forget = nbformat().v4.new_code_cell("%reset -f")  # the names of the notebook before
        notebook.cells.insert(0, forget)
        tool.execute(notebook, folder, timeout=300, kernel=manager)
        notebook.cells.remove(forget)
        [written] = folder.glob(f"{name}_*")
        return written, "\n".join(text for cell in code_cells(notebook) for text in texts(cell))

    return run


def nbformat() -> ModuleType:
    module: ModuleType = pytest.importorskip("nbformat")
    return module


def read(name: str) -> Any:
    return nbformat().read(TUTORIALS / f"{name}.ipynb", as_version=4)


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


@pytest.mark.integration
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


@pytest.mark.integration
def test_own_backbone(run: Callable[..., tuple[Path, str]]):
    folder, text = run("own_backbone", IMAGES=16)
    assert "30 checks passed" in text and "ceil(size / stride)" in text
    assert "'densevit.backbones': '\\nmynet = mynet:Mynet'" in text
    for name in ("MyNet", "swin"):
        [scores] = rows(text, name)
        assert 0 <= float(scores[2]) <= 1
        metrics = json.loads((folder / "benchmark" / "trainings" / f"{name}-setr" / "run" / "metrics.json").read_text())
        assert float(scores[2]) == pytest.approx(metrics["setr/mIoU"], abs=1e-3)
    assert (folder / "comparison.html").is_file() and "<svg" in (folder / "benchmark" / "benchmark.svg").read_text()


@pytest.mark.integration
def test_depth(run: Callable[..., tuple[Path, str]]):
    folder, text = run("depth", IMAGES=16, TUNING=16)
    assert "data.scale is missing" in text
    [tuned] = rows(text, "fine-tuned")
    assert all(float(cell) >= 0 for cell in tuned[1:]) and len(tuned) == 5
    assert len(rows(text, "base")[-1]) == 5
    assert (folder / "cloud.ply").read_bytes().startswith(b"ply\n")
    assert (folder / "runs" / "tuned" / "metrics.json").is_file()


@pytest.mark.integration
def test_own_task(run: Callable[..., tuple[Path, str]]):
    folder, text = run("own_task", IMAGES=16)
    metrics = json.loads((folder / "runs" / "arrows" / "metrics.json").read_text())
    assert 0 <= metrics["arrows/PCK"] <= 1 and "arrows/PCK/tip" in metrics
    assert "'PCK': 0.375" in text  # of the case that is worked by hand
    assert "33 checks passed" in text


@pytest.mark.integration
def test_export_and_serve(run: Callable[..., tuple[Path, str]], tmp_path: Path):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    config = tmp_path / "small.yaml"  # is traced faster than detr_swin
    extensions = "{fusion_blocks: 1, two_stage: false, contrastive_denoising: 0}"
    head = f"{{extensions: {extensions}, transformer: {{decoder_layers: 1}}}}"
    config.write_text(f"base: detr_swin\nbackbone: {{name: resnet, depth: 18}}\nheads: {{detection: {head}}}\n")
    folder, text = run("export_and_serve", IMAGES=16, REQUESTS=3, MODEL=repr(str(config)))
    assert (folder / "detr.onnx").is_file()
    assert "400 {'error': 'expected an image file'}" in text
    assert [len(row) for row in rows(text, "ONNX file over HTTP")] == [3]
    for row in (row for photo in range(1, 5) for row in rows(text, f"{photo:06}.jpg")):
        assert float(row[4]) == pytest.approx(float(row[3]), abs=0.02)  # the scores of the file and the model


def test_a_budget_that_a_notebook_does_not_have_is_an_error(tool: ModuleType):
    assert "IMAGES = 16 " in code_cells(tool.with_budgets(read("depth"), {"IMAGES": 16}))[0].source
    with pytest.raises(KeyError, match="STEPS"):
        tool.with_budgets(read("depth"), {"STEPS": 1})
