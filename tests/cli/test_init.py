"""densevit/cli/__init__.py: commands that should answer at once import neither torch nor other slow modules."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from densevit import registry
from densevit.cli import main

HEAVY = {"torch", "torchvision", "pytorch_lightning", "albumentations", "cv2", "matplotlib", "scipy", "timm"}
LIGHTNING = {"pytorch_lightning", "torchmetrics"}  # seconds more than torch
OVERVIEW, SCENES, REFUSED = "densevit -h", "the arguments of densevit scenes", "a training that is refused"
LIGHT = {  # in this order, in one interpreter
    OVERVIEW: "from densevit.cli import main; main(['-h'])",
    SCENES: "from argparse import ArgumentParser; from densevit_workbench.commands.scenes import *; "
    "add_arguments(ArgumentParser())",
    "tools/train.py": "run_tool(case)",
    "lists": "import densevit; densevit.list_plugins('backbones'); densevit.DensevitError",
    "modules": "import densevit.cli, densevit.registry, densevit.config; import densevit.registry.plugin_options",
    "a config": "from densevit import config; config.load('detr_swin', ['optim.lr=1e-3'])",
    "plugins": "assert main(['plugins']) == 0",
    "--help and --version": "assert main(['--help']) == main(['--version']) == 0",
    "an error": "assert main(['data', 'convert', 'yolo', '.', '..']) == 2",  # OUT is not empty
    "new": "assert main(['new', 'head', 'own']) == 0",
    "--help of every command": "for words in commands: assert main([*words, '--help']) == 0, words",
    REFUSED: "for given in ('data=coco data.root=no', 'weights=no.pth', 'optim.lrr=1', '--run-dir own'): "
    "assert main(['train', 'detr_swin', *given.split()]) == 2, given",
}
RECORDER = """
import contextlib, io, json, os, runpy, sys, traceback
given = json.load(sys.stdin)
commands = given["commands"]

def main(arguments):
    from densevit.cli import main
    return main(arguments)

def run_tool(name):
    file = os.path.join(given["project"], name)
    sys.argv[:], sys.path[0] = [file, "--help"], os.path.dirname(file)
    with contextlib.suppress(SystemExit):
        runpy.run_path(file, run_name="__main__")

found = {}
for case, code in given["cases"].items():
    said, error = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(said):
            exec(code)
    except BaseException:
        error = traceback.format_exc()
    found[case] = {"modules": list(sys.modules), "said": said.getvalue(), "error": error}
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def after(made_once: Any, project: Path) -> dict[str, Any]:
    """After each case in turn: the imported modules, what was printed to stdout, and the error. In one interpreter."""

    def make(folder: Path) -> None:
        folder.mkdir()
        words = [name.split() for name in registry.find("commands")]
        given = json.dumps({"cases": LIGHT, "commands": words, "project": str(project)})
        command = [sys.executable, "-c", RECORDER]
        done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=folder, check=True)
        (folder / "found.json").write_text(done.stdout)

    found: dict[str, Any] = json.loads((made_once("light_commands", make) / "found.json").read_text())
    return found


@pytest.mark.parametrize("case", LIGHT)
def test_light_commands_import_no_heavy_modules(case: str, after: dict[str, Any]):
    """The first case that fails imports them: the interpreter keeps them."""
    assert after[case]["error"] == ""
    modules = after[case]["modules"]
    assert sorted((LIGHTNING if case == REFUSED else HEAVY).intersection(modules)) == []
    if case == OVERVIEW:
        assert not {plugin.value for plugin in registry.find("commands").values()}.intersection(modules)
    if case == SCENES:
        assert "densevit_workbench.commands.scenes" in modules and "numpy" not in modules
    if case.startswith("tools/"):
        assert after[case]["said"].startswith(f"usage: densevit {Path(case).stem} ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "optim.lr=1"], "train needs a config"),
        (["train", "detr_swin", "--resume", "runs/a"], "remove 'detr_swin'"),
        (["train", "detr_swin", "--run-dir", "x", "backbone.nam=y"], "backbone.nam is not an option of 'swin'"),
        (["evaluate", "none.onnx", "data=coco", "data.root=."], "none.onnx: no such file"),
        (["trian"], "there is no command 'trian'. Did you mean 'train'?"),
    ],
)
def test_invalid_arguments_return_2(arguments, said, capsys):
    usual = warnings.formatwarning
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.out == "" and warnings.formatwarning is usual
