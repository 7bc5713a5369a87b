"""Executes the notebooks of docs/tutorials and saves their outputs in the files.

    python tools/docs/run_tutorials.py [NOTEBOOK ...]

The budgets are the assignments in the first code cell of a notebook. Outputs have no timestamps.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"


def with_budgets(notebook: nbformat.NotebookNode, budgets: Mapping[str, object]) -> nbformat.NotebookNode:
    """Replaces values in the first code cell, `NAME = value`. Raises KeyError for a name that it does not assign."""
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for name, value in budgets.items():
        cell.source, count = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value}  ", cell.source, flags=re.MULTILINE)
        if count != 1:
            raise KeyError(name)
    return notebook


def execute(
    notebook: nbformat.NotebookNode, folder: Path, timeout: float | None = None, kernel: KernelManager | None = None
) -> nbformat.NotebookNode:
    """Runs all cells, in a folder. Raises CellExecutionError if a cell fails.

    timeout: seconds of a cell. kernel: one of `started`, which keeps running; None: a new kernel of this interpreter.
    """
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": folder}},
    )
    return client.execute(env=environment())


def started(folder: Path) -> KernelManager:
    """A new kernel of this interpreter, in a folder."""
    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel(env=environment(), cwd=folder)
    return kernel


def environment() -> dict[str, str]:
    """The environment of a kernel, with the path of `!densevit` in cells."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    for path in parser.parse_args(arguments).notebooks or sorted(TUTORIALS.glob("*.ipynb")):
        start = time.perf_counter()
        notebook = execute(nbformat.read(path, as_version=4), path.parent)
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
