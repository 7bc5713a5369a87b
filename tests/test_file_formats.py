"""Versions of file formats: one table, one line for a newer file wherever a file is read."""

import ast
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import densevit
from densevit.errors import DensevitError
from densevit.training.loop.checkpoint_entries import restore
from densevit.weights.state_dict_io import read_safetensors, write_safetensors
from densevit_checkpoints.transformers_export import load_backbone
from densevit_probes.board_rows import read_rows
from densevit_workbench.benchmarking.benchmark_results import Results
from tests.small_models import CELLS, FOUR_MAPS, small_predictor

PROJECT = Path(__file__).parents[1]
NEWER = 99


@cache
def formats() -> dict[str, tuple[str, int]]:
    """The modules that check a `format_version`, each with the module that defines it as `FORMAT` and the number."""
    numbers, readers = dict[str, int](), dict[str, str]()
    for root in (PROJECT, PROJECT / "plugins"):
        for file in root.glob("densevit*/**/*.py"):
            if not re.search(r"\bFORMAT\b|check_format", text := file.read_text()):
                continue
            module, tree = ".".join(file.relative_to(root).with_suffix("").parts), ast.parse(text)
            if number := re.search(r"^FORMAT = (\d+)", text, re.MULTILINE):
                numbers[module] = int(number[1])
            imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
            origin = [str(node.module) for node in imports if "FORMAT" in [name.name for name in node.names]]
            if any(isinstance(x, ast.Call) and ast.unparse(x.func) == "check_format" for x in ast.walk(tree)):
                readers[module] = (*origin, module)[0]
    return {module: (origin, numbers[origin]) for module, origin in readers.items()}


def test_the_table_has_the_versions_of_all_formats() -> None:
    section = (PROJECT / "docs" / "reference" / "index.md").read_text().partition("## File formats")[2]
    rows = re.findall(r"^\| .* \| (\d+) \| .* \| `([\w.]+)` \|$", section, re.MULTILINE)
    assert [int(version) for version, _ in rows] == [formats()[module][1] for _, module in rows]
    assert {formats()[module][0] for _, module in rows} == {origin for origin, _ in formats().values()}


def model_file(folder: Path) -> Path:
    small_predictor(CELLS).save(folder / "model.safetensors")
    tensors, header = read_safetensors(folder / "model.safetensors")
    write_safetensors(tensors, folder / "model.safetensors", header | {"format_version": str(NEWER)})
    return folder / "model.safetensors"


def config(folder: Path) -> Path:
    (folder / "config.yaml").write_text(f"# format_version: {NEWER}\na_key_of_that_version: 1\n")
    return folder / "config.yaml"


def results(folder: Path) -> Path:
    (folder / "results.json").write_text(json.dumps({"format_version": NEWER}))
    return folder / "results.json"


def checkpoint(folder: Path) -> Path:
    (folder / "checkpoints").mkdir()
    torch.save({"format_version": NEWER}, folder / "checkpoints" / "last.ckpt")
    return folder / "checkpoints" / "last.ckpt"


def exported(folder: Path) -> Path:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value = [onnx.helper.make_tensor_value_info(name, 1, [1, 3, 8, 8]) for name in ("images", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["images"], ["y"])], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.helper.set_model_props(model, {"densevit": json.dumps({"format_version": NEWER})})
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def shards(folder: Path) -> Path:
    (folder / "train").mkdir()
    header = np.frombuffer(json.dumps({"format_version": NEWER}).encode(), np.uint8)
    np.savez(folder / "train" / "index.npz", header=header)
    return folder / "train" / "index.npz"


def resumed(path: Path) -> object:
    from densevit.training.run.resuming import RunCheckpoint

    return RunCheckpoint(path)


READINGS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "densevit.config.yaml_io": (config, lambda path: densevit.config.load(path)),
    "densevit.weights.model_file": (model_file, lambda path: densevit.load(path)),
    "densevit.weights.translated_checkpoint": (
        model_file,
        lambda path: densevit.create_backbone(FOUR_MAPS["name"], weights=path),
    ),
    "densevit.training.loop.checkpoint_entries": (
        checkpoint,
        lambda path: restore(torch.load(path), str(path), small_predictor(CELLS), None),
    ),
    "densevit.training.run.resuming": (checkpoint, resumed),
    "densevit_checkpoints.transformers_export": (model_file, lambda path: load_backbone(path)),
    "densevit_export.runtimes": (exported, lambda path: densevit.load(path)),
    "densevit_workbench.interchange.shards": (
        shards,
        lambda path: densevit.create_dataset("shards", split="train", root=str(path.parents[1])),
    ),
    "densevit_probes.board_rows": (results, lambda path: read_rows(path.parent)),
    "densevit_workbench.benchmarking.benchmark_results": (results, lambda path: Results.of(path)),
}
"""For each module that checks a version: makes a newer file, and reads it."""


def test_all_readers_are_tried() -> None:
    assert READINGS.keys() == formats().keys()


IMPORTS_LIGHTNING = {"densevit.training.run.resuming": (pytest.mark.integration,)}


@pytest.mark.parametrize(
    "module", [pytest.param(module, marks=IMPORTS_LIGHTNING.get(module, ())) for module in READINGS]
)
def test_a_newer_file_is_one_line_that_says_which_version_is_read(module: str, tmp_path: Path) -> None:
    make, read = READINGS[module]
    path = make(tmp_path)
    with pytest.raises(DensevitError) as caught:
        read(path)
    version, newest = densevit.__version__, formats()[module][1]
    assert str(caught.value) == (
        f"{path}: format version {NEWER}, densevit {version} reads up to {newest}. Fix: update densevit."
    )
    assert caught.traceback[-2].frame.f_globals["__name__"] == module
