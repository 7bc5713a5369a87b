"""`densevit doctor --environment`: values equal those of the libraries, and a broken library stops nothing."""

import json
import platform

import numpy
import torch

import densevit
from densevit.cli import main


def test_the_command_shows_the_values_of_the_libraries_plugins_and_variables(install, run, environment):
    install("acme", "[densevit.backbones]\nacme_net = acme_net:Net\n")
    environment(OMP_NUM_THREADS=1)
    rows = json.loads(run("doctor", "--environment", "--json"))["environment"]
    expected = {
        "densevit": densevit.__version__,
        "numpy": numpy.__version__,
        "torch version": torch.__version__,
        "plugins of acme 1.0": "backbone 'acme_net'",
        "OMP_NUM_THREADS": "1",
    }
    assert {key: rows[key] for key in expected} == expected and rows["precision auto"].endswith("on cpu")
    assert rows["python version"].startswith(platform.python_version())
    assert "plugins of acme 1.0" in run("doctor", "--environment")
    assert main(["doctor", "detr_swin", "--environment", "--out", "page.html"]) == main(["doctor"]) == 2
