"""The tutorials run on small budgets."""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
JUPYTER = ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")  # the user's kernels and history
TRACES = re.compile(r"(?<![\w.:/])/(tmp|home|root|Users|usr|opt|work|mnt)/|[━╸]|UserWarning")
SMALLER = {  # data sets of a few images
    "depth": {"--count 80": "--count 8"},
    "own_detector": {"--count 200 --size 192": "--count 20 --size 96"},
    "own_backbone": {"rounds=10": "rounds=1"},
}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package)
    return importlib.import_module("tools.docs.run_tutorials")


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


def wrote(run: Callable[..., Any], name: str, files: tuple[str, ...], said: tuple[str, ...], **budgets: int) -> None:
    """A tutorial writes these files and finite metrics, and its outputs have these texts."""
    folder, text = run(name, **budgets)
    assert all((folder / file).stat().st_size for file in files)
    assert all(one in text for one in said), text
    for metrics in folder.glob("runs/*/metrics.json"):
        assert all(value is None or np.isfinite(value) for value in json.loads(metrics.read_text()).values())


@pytest.mark.parametrize("path", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_saved_notebook_holds_the_outputs_of_one_run(path: Path) -> None:
    """In order, without errors, timestamps, progress bars and paths of a machine."""
    cells = code_cells(read(path.stem))
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert not [cell for cell in cells if "execution" in cell.metadata]
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert not TRACES.search("\n".join(text for cell in cells for text in texts(cell)))
    assert f"test_{path.stem}" in globals() and path.stat().st_size < 600_000


@pytest.mark.integration
def test_own_detector(run: Callable[..., Any]):
    said = "identical images in several splits", "boxes partly outside of their image", "| missed"
    wrote(run, "own_detector", ("runs/first/report.html", "doctor.html"), said, IMAGES=16, MORE=24)


@pytest.mark.integration
def test_own_backbone(run: Callable[..., Any]):
    said = "32 checks passed", "ceil(size / stride)", "'densevit.backbones': '\\nmynet = mynet:Mynet'", "| MyNet"
    wrote(run, "own_backbone", ("comparison.html", "benchmark/benchmark.json"), said, IMAGES=16)


@pytest.mark.integration
def test_depth(run: Callable[..., Any]):
    said = "data.scale is missing", "| fine-tuned", "| base"
    wrote(run, "depth", ("cloud.ply", "runs/tuned/metrics.json"), said, IMAGES=16, TUNING=16)


@pytest.mark.integration
def test_own_task(run: Callable[..., Any]):
    said = "33 checks passed", "'PCK': 0.375"  # of the case that is worked by hand
    wrote(run, "own_task", ("runs/arrows/metrics.json",), said, IMAGES=16)


@pytest.mark.integration
def test_export_and_serve(run: Callable[..., tuple[Path, str]], tmp_path: Path):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    config = tmp_path / "small.yaml"  # is traced faster than detr_swin
    extensions = "{fusion_blocks: 1, two_stage: false, contrastive_denoising: 0}"
    head = f"{{extensions: {extensions}, transformer: {{decoder_layers: 1}}}}"
    config.write_text(f"base: detr_swin\nbackbone: {{name: resnet, depth: 18}}\nheads: {{detection: {head}}}\n")
    folder, text = run("export_and_serve", IMAGES=16, REQUESTS=3, MODEL=repr(str(config)))
    assert (folder / "detr.onnx").is_file() and "400 {'error': 'expected an image file'}" in text
    rows = [[cell.strip() for cell in line.strip("| ").split(" |")] for line in text.splitlines() if line[:1] == "|"]
    for row in (row for row in rows if row[0].endswith(".jpg")):
        assert float(row[4]) == pytest.approx(float(row[3]), abs=0.02)  # the scores of the file and the model
