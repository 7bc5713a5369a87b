"""Plugins are found by entry points, and their first lines read without an import."""

import sys

import pytest

import densevit
from densevit import registry
from densevit.errors import PluginError

NET = """
    import densevit

    class Net(densevit.Backbone):
        '''A net.

        And more about it.
        '''
    """


def test_each_group_has_a_list():
    groups = ("optimizers", "transforms", "methods", "heads", "necks", "backbones")
    listed = {group: densevit.list_plugins(group) for group in groups}
    for group, names in listed.items():
        assert names and all(registry.load(group, name) for name in names[:3]), group
    assert registry.find("backbones")["swin"].origin.startswith("densevit ")


def test_malformed_entry_point_is_isolated_and_named_on_use(install):
    install(
        "broken",
        "[densevit.backbones]\nwhole = br_net:Net\nno value here\nempty =\nbad = br net!\n",
        {"br_net.py": NET},
    )
    assert registry.load("backbones", "whole").__name__ == "Net"
    with pytest.raises(
        PluginError, match=r"no backbone 'bad'.*broken 1\.0 has a malformed entry point, 'bad = br net!'"
    ):
        registry.load("backbones", "bad")


def test_unreadable_distribution_is_ignored(install):
    install("bytes", b"[densevit.backbones]\n\xff\xfe = \xff")
    install("nameless", "[densevit.backbones]\nx = y:Z\n", metadata="no metadata at all")
    assert "swin" in registry.find("backbones")


def test_built_in_plugin_wins_a_name_conflict_with_a_warning(install):
    install("greedy", "[densevit.backbones]\nswin = greedy:Net\n", {"greedy.py": NET})
    with pytest.warns(UserWarning, match=r"greedy 1\.0 offers backbone 'swin', but densevit .* has that name"):
        found = registry.find("backbones")
    assert found["swin"].value == "densevit_backbones.swin:Swin"


def test_first_docstring_line_is_read_without_importing(install):
    files = {
        "far/__init__.py": "raise RuntimeError('imported')",
        "far/near/__init__.py": "from .deep import Net as Renamed\n",
        "far/near/deep.py": NET,
    }
    install("far", "[densevit.backbones]\na = far.near:Renamed\n", files)
    assert registry.first_line(registry.find("backbones")["a"]) == "A net."
    assert "far" not in sys.modules
