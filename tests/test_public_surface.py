"""The public names exist and have docstrings. That pages list them is a test of tests/docs."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import densevit
from densevit import registry


def test_public_names_exist():
    for name in densevit.__all__:
        assert getattr(densevit, name).__doc__, name
        assert name in dir(densevit)


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


@pytest.mark.integration
def test_modules_are_attributes_before_anything_imports_them(monkeypatch):
    """Each module of the package but private ones and programs; one in a new process."""
    subprocess.run([sys.executable, "-c", "import densevit; densevit.config.load('detr_swin')"], check=True)
    names = [module.name for module in pkgutil.iter_modules(densevit.__path__) if not module.name.startswith("_")]
    for name in {*names} - {*densevit.__all__}:
        monkeypatch.delattr(densevit, name, raising=False)
        assert getattr(densevit, name).__name__ == f"densevit.{name}"
    with pytest.raises(AttributeError, match="__main__"):
        _ = densevit.__main__
