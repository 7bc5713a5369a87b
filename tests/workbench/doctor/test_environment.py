"""`densevit doctor --environment`: values equal those of the libraries, and a broken library stops nothing."""

import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

import densevit
from densevit.cli import main
from densevit_workbench.doctor import environment


def test_values_are_those_of_the_libraries():
    found = environment.examine()
    assert found.packages["densevit"] is not None and found.packages["densevit"].startswith(densevit.__version__)
    assert found.packages["numpy"] == numpy.__version__
    assert torch.__version__.startswith(str(found.packages["torch"]))
    assert found.cpu["torch_capability"] == torch.backends.cpu.get_cpu_capability()
    assert found.cpu["threads"] == torch.get_num_threads() and found.cpu["cores"] == os.cpu_count()
    assert found.gpu["cuda"] == torch.version.cuda
    assert platform.python_version() in found.python


def test_packages_that_are_broken_or_missing_are_problems(monkeypatch: pytest.MonkeyPatch):
    real_import, real_version = importlib.import_module, importlib.metadata.version

    def broken_import(name: str, *rest: Any) -> Any:
        if name in ("torchvision", "simplejpeg", "torch"):
            raise ImportError(f"{Path.home()}/secret/{name}.so: undefined symbol: nms")
        return real_import(name, *rest)

    def version(name: str) -> str:
        if name == "simplejpeg":
            raise importlib.metadata.PackageNotFoundError(name)
        return real_version(name)

    monkeypatch.setattr(importlib, "import_module", broken_import)
    monkeypatch.setattr(importlib.metadata, "version", version)
    found = environment.examine()
    installed = real_version("torchvision")
    said = f"torchvision {installed} cannot be imported: ImportError: torchvision.so: undefined symbol: nms"
    assert said in found.problems and "simplejpeg is not installed." in found.problems
    assert found.packages["simplejpeg"] is None and found.packages["numpy"] == numpy.__version__
    assert "torch_capability" not in found.cpu and found.cpu["cores"]


@pytest.mark.parametrize(("major", "precision"), [(9, "bf16-mixed"), (7, "16-mixed")])
def test_gpus_are_listed_with_their_precision(major: int, precision: str, monkeypatch: pytest.MonkeyPatch):
    properties = SimpleNamespace(name="NVIDIA Test", total_memory=80 * 2**30, major=major, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: major >= 8)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    found = environment.examine()
    device = {"name": "NVIDIA Test", "memory": 80 * 2**30, "compute_capability": f"{major}.0"}
    assert found.gpu["devices"] == [device | {"precision_auto": precision}] * 2
    text = f"NVIDIA Test, 80.0 GiB, compute capability {major}.0, precision auto: {precision}"
    assert dict(environment._rows(found))["GPU 1"] == text


def test_paths_are_shortened():
    for text, expected in (
        ("from 'torch' (/srv/x/torch/__init__.py)", "from 'torch' (__init__.py)"),
        ("no '/srv/my data/a.so' here", "no 'a.so' here"),
        (f"in {Path.home()}", "in ~"),
        ("GNU/Linux, 1/2, https://a.org/b", "GNU/Linux, 1/2, https://a.org/b"),
    ):
        assert environment.public(text) == expected


def test_the_command_lists_plugins_and_names_no_path(install, capsys, monkeypatch):
    install("acme", "[densevit.backbones]\nacme_net = acme_net:Net\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    main(["doctor", "--environment", "--json"])
    printed = capsys.readouterr().out
    values = json.loads(printed)
    assert values["plugins"] == {"acme 1.0": ["backbone 'acme_net'"]}
    assert values["variables"]["OMP_NUM_THREADS"] == "1"
    main(["doctor", "--environment"])
    printed += capsys.readouterr().out
    assert "plugins of acme 1.0" in printed
    assert sys.prefix not in printed and os.getcwd() not in printed
    assert main(["doctor", "detr_swin", "--environment", "--out", "page.html"]) == main(["doctor"]) == 2
