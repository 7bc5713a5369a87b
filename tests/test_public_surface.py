"""The public names exist and have docstrings. That pages list them is a test of tests/docs."""

import ast
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from torch import Tensor

import densevit
from densevit import registry, set_prediction
from tools.release import public_surface


def test_public_names_exist():
    for name in densevit.__all__:
        assert getattr(densevit, name).__doc__, name
        assert name in dir(densevit)


def test_names_of_set_prediction_state_the_shapes_of_tensors():
    """Each function and method that takes or returns a tensor does, in its docstring or that of its class."""
    undocumented = []
    for name in set_prediction.__all__:
        value = getattr(set_prediction, name)
        members = inspect.getmembers(value, inspect.isroutine) if inspect.isclass(value) else [(name, value)]
        for member, function in members:
            of_densevit = str(getattr(function, "__module__", "")).startswith("densevit.") and not member.startswith(
                "_"
            )
            if of_densevit and Tensor in typing.get_type_hints(function).values():
                text = f"{value.__doc__} {inspect.getdoc(function)}"
                undocumented += [f"{name}.{member}"] * (re.search(r"\((\.\.\.|[A-Z]( \* [A-Z])?)[,)]", text) is None)
    assert not undocumented


@pytest.mark.integration
def test_modules_of_set_prediction_are_imported_at_first_use():
    code = "import sys; from densevit.set_prediction import Memory; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = [name for name in done.stdout.split() if name.startswith("densevit.set_prediction.")]
    assert modules == ["densevit.set_prediction.memory"]
    with pytest.raises(AttributeError, match="module 'densevit.set_prediction' has no attribute 'Memories'"):
        _ = set_prediction.Memories


def test_all_is_sorted_and_unknown_names_raise_attribute_error():
    assert densevit.__all__ == sorted(densevit.__all__)
    with pytest.raises(AttributeError, match="module 'densevit' has no attribute 'Backbones'"):
        _ = densevit.Backbones


def test_stubs_have_the_modules_of_the_entry_points(project: Path):
    """Type checkers read the stubs, Python the entry points."""
    trees = [ast.parse((project / "densevit" / name).read_text()) for name in ("__init__.pyi", "testing.pyi")]
    imports = [node for tree in trees for node in tree.body if isinstance(node, ast.ImportFrom)]
    in_stubs = {f"{node.module}:{name.name}" for node in imports for name in node.names}
    plugins = {value for value in in_stubs if not value.startswith("densevit.")}
    assert plugins == {plugin.value for plugin in registry.find("names").values() if plugin.origin[:9] == "densevit "}


def test_public_names_are_few():
    assert len(densevit.__all__) <= 50


def test_public_surface_is_that_of_the_file():
    """Names, signatures, config keys, plugins, flags and metrics change only together with the file, in one diff."""
    lines, expected = public_surface.surface().splitlines(), public_surface.SURFACE.read_text().splitlines()
    changed = {line: "removed" for line in expected if line not in lines}
    changed |= {line: "added" for line in lines if line not in expected}
    assert not changed, f"Fix: python tools/release/public_surface.py, and a line in CHANGELOG.md. {changed}"
    assert lines == expected, "The order changed. Fix: python tools/release/public_surface.py"
