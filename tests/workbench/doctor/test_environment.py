"""`densevit doctor --environment`: values equal those of the libraries, and a broken library stops nothing."""

import importlib.metadata
import json
import platform
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

import densevit
from densevit.cli import main
from densevit_workbench.doctor import environment


@pytest.mark.integration
def test_packages_that_are_broken_are_problems(monkeypatch: pytest.MonkeyPatch):
    def broken_import(name: str) -> Any:
        if name in ("torchvision", "torch"):
            raise ImportError(f"{name}.so: undefined symbol: nms")
        return importlib.import_module(name)

    stand_in = SimpleNamespace(import_module=broken_import, metadata=importlib.metadata)
    monkeypatch.setattr(environment, "importlib", stand_in)
    rows, problems = environment.examine()
    assert "torchvision cannot be imported: ImportError: torchvision.so: undefined symbol: nms" in problems
    assert rows["numpy"] == numpy.__version__ and "torch version" not in rows


def test_the_command_shows_the_values_of_the_libraries_plugins_and_variables(install, capsys, monkeypatch):
    install("acme", "[densevit.backbones]\nacme_net = acme_net:Net\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    examined = environment.examine()
    monkeypatch.setattr(environment, "examine", lambda: examined)  # which takes seconds
    assert main(["doctor", "--environment", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["environment"]
    assert rows["densevit"] == densevit.__version__ and rows["numpy"] == numpy.__version__
    assert torch.__version__.startswith(rows["torch"]) and rows["torch version"] == torch.__version__
    assert rows["python version"].startswith(platform.python_version())
    assert rows["precision auto"].endswith("on cpu")
    assert rows["plugins of acme 1.0"] == "backbone 'acme_net'" and rows["OMP_NUM_THREADS"] == "1"
    assert main(["doctor", "--environment"]) == 0
    assert "plugins of acme 1.0" in capsys.readouterr().out
    assert main(["doctor", "detr_swin", "--environment", "--out", "page.html"]) == main(["doctor"]) == 2
