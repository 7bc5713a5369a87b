"""The files of a new plugin distribution."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

import densevit
from densevit.atomic_io import check_new_folder
from densevit_workbench.scaffold import (
    backbone_template,
    detr_template,
    method_template,
    segmentation_head_template,
    task_template,
)
from densevit_workbench.scaffold.names import class_name


@dataclass(frozen=True)
class Kind:
    """Templates of one kind of plugin.

    points: entry points by group. modules: modules of the package by file.
    """

    points: Mapping[str, str]
    modules: Mapping[str, str]
    config: str
    test: str
    readme: str


_PYPROJECT = """\
# The distribution is described in setup.cfg.

[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[tool.pytest.ini_options]
testpaths = ["tests"]

[tool.ruff]
line-length = 120
"""

# With `package_dir`, an editable install adds the folder to sys.path. Without it, setuptools installs an import hook
# that runs after the path search, and from the parent folder Python would import this folder as the package.
_SETUP = """\
[metadata]
name = $name
version = 0.1

[options]
python_requires = >=3.10
packages = find:
package_dir =
    = .
install_requires = densevit$versions

[options.packages.find]
include = $name, $name.*

[options.entry_points]
"""

_README = """\
# $name

A $noun for densevit.

```
pip install -e .                       # once, and again after a change in setup.cfg
densevit check $noun $name
python -m pip install pytest
python -m pytest
densevit train configs/$name.yaml
```
"""

_TEST = '''\
"""Checks of the $noun interface, as in `densevit check $noun $name`."""

from densevit.testing import check_$noun

from $name import $cls


def test_interface() -> None:
    check_$noun($cls)
'''


def _module_kind(group: str, module: str, config: str) -> Kind:
    """Templates of a package with one module and one plugin."""
    return Kind({group: "$name:$cls"}, {"__init__.py": module}, config, _TEST, _README)


KINDS = {
    "backbone": _module_kind("backbones", backbone_template.MODULE, backbone_template.CONFIG),
    "head": _module_kind("heads", detr_template.MODULE, detr_template.CONFIG),
    "method": _module_kind("methods", method_template.MODULE, method_template.CONFIG),
    "task": Kind(
        task_template.POINTS, task_template.MODULES, task_template.CONFIG, task_template.TEST, task_template.README
    ),
}
_HEADS = {  # by task
    "detr": KINDS["head"],
    "segmentation": _module_kind("heads", segmentation_head_template.MODULE, segmentation_head_template.CONFIG),
}


def files(noun: str, name: str, task: str | None = None) -> dict[str, str]:
    """Text files of a new distribution, by relative path.

    noun: a key of `KINDS`. name: the package's name, from `check_name`. task: a head's template, a key of `_HEADS`; by
    default detr.
    """
    plugin_kind = KINDS[noun] if task is None else _HEADS[task]
    words = {"name": name, "cls": class_name(name), "noun": noun, "versions": _versions()}
    points = "".join(f"densevit.{group} =\n    $name = {value}\n" for group, value in plugin_kind.points.items())
    templates = {
        "pyproject.toml": _PYPROJECT,
        "setup.cfg": _SETUP + points,
        "README.md": plugin_kind.readme,
        **{f"{name}/{file}": text for file, text in plugin_kind.modules.items()},
        f"tests/test_{name}.py": plugin_kind.test,
        f"configs/{name}.yaml": plugin_kind.config,
    }
    return {path: Template(text).substitute(words) for path, text in templates.items()}


def _versions() -> str:
    """Compatible versions of densevit: ">=0.1,<0.2"; from 1.0 on, ">=1.2,<2"."""
    major, minor = map(int, densevit.__version__.split(".")[:2])
    return f">={major}.{minor},<{f'0.{minor + 1}' if major == 0 else major + 1}"


def write(folder: Path, texts: Mapping[str, str]) -> None:
    """Writes files into a new or empty folder. Raises DensevitError for any other folder."""
    check_new_folder(folder)
    for path, text in texts.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
