"""A small project that follows every convention; the tests of tools/conventions change a part of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Problems = Callable[..., list[str]]  # of a change, see the fixture problems_of
ProblemsOf = Callable[[str], Problems]

APACHE = (Path(__file__).resolve().parents[3] / "LICENSE").read_text()
FORM = """name: {0}
description: A {0}
body:
  - type: textarea
    id: environment
    attributes:
      label: Environment
      description: The output of `densevit doctor --environment`.
    validations:
      required: true
  - type: input
    id: problem
    attributes:
      label: Problem
"""
CELL = {"cell_type": "code", "metadata": {}, "source": ["1"], "execution_count": 1, "outputs": []}
CELL["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]
NOTEBOOK = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [CELL]}
SETUP = """[options]
packages =
    densevit
    densevit.config
    densevit.data
    densevit.data.loading
    densevit.training
    densevit.training.callbacks
    densevit.training.loop
    densevit.training.run
    densevit_heads
    densevit_papers
package_dir =
    densevit = densevit
    densevit_heads = plugins/densevit_heads
    densevit_papers = plugins/densevit_papers
install_requires =
    torch >= 2.6
    albumentations >= 2.0.8, < 2.1

[options.entry_points]
densevit.backbones =
    timm = densevit_heads.fcn:Fcn
densevit.necks =
    fpn = densevit_heads.fcn:Fcn
densevit.heads =
    fcn = densevit_heads.fcn:Fcn
    cvt = densevit_papers.cvt:CvT
densevit.datasets =
    coco = densevit_heads.fcn:Fcn
densevit.checkpoints =
    mae = densevit_backbones.vit.mae_checkpoints:MAE
"""
SECTIONS = ("BackboneSection", "HeadSection", "DataSection", "OptimSection", "TrainerSection", "InferenceSection")

ENTRY = {"data": "scenes", "seeds": [0], "images": 2100, "scores": {"detection/AP": [0.512]}}
SEEDS = {"seeds": [0, 1, 2], "scores": {"detection/AP": [0.49, 0.5, 0.51]}}
START = {"images": 40, "scores": {}, "images_per_second": {"core": 8}}
RESULTS: dict[str, dict[str, Any]] = {
    "processors": {"core": {"name": "a core", "kind": "AVX2"}},
    "data": {"scenes": {"title": "scenes", "held_out": "9 scenes"}},
    "trainings": {
        "fcn": {"group": "detection", **ENTRY, "images_per_second": {"core": 5}},
        "fcn, three seeds": {"group": "variants", "recipe": "fcn", "label": "three seeds", **ENTRY, **SEEDS},
        "start/fcn": {"group": "starts", "label": "20 steps", **ENTRY, **START},
    },
}

FILES = {
    "README.md": "# densevit\n\n[Names](docs/reference/index.md#the-names), [below](#run-it)\n"
    "\n## Run it\n\nSee above.\n",
    "CONTRIBUTING.md": "# Contributing\n\n[Start](README.md)\n",
    "CHANGELOG.md": "# Changelog\n\n## 0.1.0 - unreleased\n",
    "LICENSE": APACHE,
    "CITATION.cff": "title: densevit\ntype: software\nauthors:\n  - name: densevit contributors\nversion: 0.1.0\n"
    "license: Apache-2.0\n",
    "setup.cfg": SETUP,
    ".github/ISSUE_TEMPLATE/bug_report.yml": FORM.format("bug"),
    ".github/ISSUE_TEMPLATE/feature_request.yml": FORM.format("feature"),
    "docs/reference/index.md": "# Names\n\n## The names\n\n| page | names |\n|---|---|\n"
    "| [All](all.md), a net | |\n| [All](all.md) | `Net`, `fit` |\n\n"
    "```python\nimport densevit\n\ndensevit.fit()\n```\n\n```bash\ndensevit train fcn\n```\n",
    "docs/reference/all.md": "# All\n\n::: densevit.Net\n\n::: densevit.fit\n",
    "docs/index.md": "# Overview\n\n| | |\n|---|---|\n| backbones | [all of timm](timm.md) |\n| necks | `fpn` |\n"
    "| heads | `fcn`, `cvt` |\n| data | `coco` |\n\n![Plot](plot.svg)\n",
    "docs/plot.svg": "<svg/>\n",
    "docs/papers.md": "# Papers\n\n| system | plugin | files |\n|---|---|---|\n| CvT | `cvt` | `cvt.py` |\n",
    "docs/weights.md": "# Weights\n\n## What loads\n\n| project | what | layout | notes |\n|---|---|---|---|\n"
    "| MAE | the release | `mae` | `configs/fcn.yaml` |\n\n## Safety\n\n| a | b | `c` | d |\n",
    "docs/config.md": "# Config\n\n| key | |\n|---|---|\n| `name` | a name |\n| `seed` | a seed |\n",
    "docs/timm.md": "# timm\n\nBackbones of timm.\n",
    "docs/development/timm.md": "# timm\n\n<!-- table: python tools/foundation_table.py -->\n\n"
    "| backbone | model | licence | strides | norm | depths | setr | dpt | export |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
    "| DINOv2 | `vit` | mit | 14 | new | 4 | yes | pyramid | yes |\n"
    "| Hiera of SAM 2 | `hiera` | mit | 4 | new | 4 | yes | yes | no |\n\n<!-- end of the foundation table -->\n",
    "docs/development/architecture.md": "# Architecture\n\n## Four walks\n\n| step | where |\n|---|---|\n"
    + "| a step | `Net` and `fit` in `densevit/training/run/__init__.py` |\n" * 18
    + "\n### A training\n\n| step | where |\n|---|---|\n| all | `train` in `densevit/training/run/fit.py` |\n"
    + "".join(f"| part {i} | `part_{i}` in `densevit/training/run/fit.py` |\n" for i in range(8))
    + "\n### In each step\n\n| step | where |\n|---|---|\n"
    "| losses | `DenseModule.training_step` in `densevit/training/loop/dense_module.py` |\n"
    "| update | `DenseModule.on_end` in `densevit/training/loop/dense_module.py` |\n"
    "| waits | `Waiting` in `densevit/training/callbacks/waiting.py` |\n"
    "| saves | `Saving` in `densevit/training/callbacks/waiting.py` |\n"
    "\n## Packages\n\n| packages | |\n|---|---|\n| `training` | trains |\n| `data` | loads |\n| `config` | keys |\n",
    "docs/development/faults.md": "# Faults\n\n## Tested faults\n\n| fault | test |\n|---|---|\n"
    + "".join(f"| fault {i} | `tests/test_net.py::test_net` |\n" for i in range(101))
    + "\n## Messages\n\nthe loss or a gradient is not finite. the first value that is not finite\n",
    "docs/troubleshooting.md": "# Errors\n\n"
    + "### Error\n\n```console\n$ densevit train x\nno\n```\n\n" * 20
    + "The memory is full, found no space in /dev/shm, the loss or a gradient is not\nfinite\n",
    "docs/results.md": "# Results\n\nAP 0.512<!-- AP of fcn -->\n\n<!-- results: detection; config, AP, time -->\n\n"
    "| config | AP | time |\n|---|---|---|\n| `fcn` | 0.512 | 7.0 min |\n\n<!-- end of results -->\n",
    "docs/results.json": json.dumps(RESULTS),
    "docs/tutorials/index.md": "# Tutorials\n\n[One](one.ipynb)\n",
    "docs/tutorials/one.ipynb": json.dumps(NOTEBOOK, indent=1),
    "configs/fcn.yaml": "# FCN.\n# Measured: AP 0.512 (9 scenes, seed 0) after 2,100 images, 7.0 min on a core"
    " (AVX2, 5 images/s); three seeds: AP 0.500 ±\n#  0.010 (seeds 0, 1, 2).\n# Train it.\nseed: 0\n",
    "configs/scenes/overfit.yaml": "# Not measured.\nseed: 0\n",
    "configs/coco/fcn.yaml": "# Published, not run here: box AP 0.4\n"
    "#   densevit train configs/coco/fcn.yaml data.root=x\n#   backbone.depth=101: box AP 0.6\n",
    "configs/coco/fcn_large.yaml": "# As fcn.yaml. Published, not run here: box AP 0.5\nbase: fcn.yaml\n",
    "configs/data/coco.yaml": "#   densevit train CONFIG data=configs/data/coco.yaml data.root=x\nname: coco\n",
    "configs/start/fcn.yaml": "#   densevit train start/fcn data=folder\n# Measured: 20 steps: 40 images, 0.1 min"
    " on a core (AVX2, 8 images/s).\nseed: 0\n",
    "densevit/__init__.py": '"""A package."""\n\n__version__ = "0.1.0"\n',
    "densevit/__init__.pyi": '"""Names."""\n\nfrom densevit.training import fit as fit\n'
    "from densevit.training.run import Net as Net\n",
    "densevit/config/__init__.py": "",
    "densevit/config/schema.py": '"""Sections."""\n\n\nclass Section:\n    """A section."""\n\n    name: str\n'
    '    """A name."""\n    _cache: int\n\n\nclass Config:\n    """All."""\n\n    seed: int = 0\n    """A seed."""\n'
    + "".join(f'\n\nclass {name}(Section):\n    """A section."""\n' for name in SECTIONS),
    "densevit/data/__init__.py": "",
    "densevit/data/loading/__init__.py": "",
    "densevit/data/loading/worker_processes.py": '"""Loader."""\n\nTEXT = "found no space in /dev/shm"\n',
    "densevit/training/__init__.py": '"""Training."""\n\nfrom densevit.training.run import Net, fit\n',
    "densevit/training/loop/__init__.py": "",
    "densevit/training/loop/finite_check.py": '"""Check."""\n\nTEXT = "the loss or a gradient is not finite"\n'
    'LAYER = "the first value that is not finite"\n',
    "densevit/training/run/__init__.py": '"""Runs."""\n\nfrom densevit.data.loading import dataloader\n\n\n'
    'class Net:\n    """A net."""\n\n\ndef fit():\n    """Trains."""\n',
    "densevit/training/callbacks/__init__.py": "",
    "densevit/training/callbacks/waiting.py": '"""Two."""\n\n\nclass Waiting:\n    """1."""\n\n\n'
    'class Saving:\n    """2."""\n',
    "densevit/training/loop/dense_module.py": '"""A step."""\n\n\nclass DenseModule:\n    """Hooks."""\n\n'
    "    def training_step(self):\n        pass\n\n    def on_end(self):\n        pass\n",
    "densevit/training/run/fit.py": '"""Trains."""\n\nfrom densevit.training.callbacks.waiting import Saving, Waiting\n'
    "\n\ndef train(model):\n    started = part_0(part_1 and [])\n    if started:\n        _parts(model)\n\n\n"
    "def _parts(model):\n    model.part_7()\n"
    + "".join(f"    part_{i}()\n" for i in range(1, 8))
    + "".join(f"\n\ndef part_{i}():\n    pass\n" for i in range(8))
    + "\n\ndef run_callbacks(saving: Saving, others):\n    return [Waiting(), saving, *others]\n",
    "densevit/training/run/errors.py": '"""Errors."""\n\nTEXT = "The memory is full"\n',
    "densevit/training/run/config_checks.py": '"""Checks."""\n\nTEXT = "wrong"\n',
    "plugins/densevit_heads/__init__.py": "",
    "plugins/densevit_heads/fcn.py": '"""FCN."""\n\nfrom densevit import Net\nfrom densevit.interfaces import Head\n',
    "plugins/densevit_papers/__init__.py": "",
    "plugins/densevit_papers/cvt.py": '"""CvT."""\n\n\nclass CvT:\n    """A net."""\n',
    "tools/foundation_table.py": '"""Table."""\n\nFOUNDATION = {"DINOv2": 1, "Hiera of SAM 2": 2}\n',
    "tests/test_net.py": "def test_net():\n    pass\n",
    "tests/docs/test_tutorials.py": "def test_one():\n    pass\n",
}
