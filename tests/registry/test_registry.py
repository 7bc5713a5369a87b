"""Plugins are found by entry points and loaded individually."""

import sys
from pathlib import Path

import pytest

import densevit
from densevit import registry
from densevit.errors import PluginError
from densevit.interfaces import Backbone

NET = """
    import densevit

    class Net(densevit.Backbone):
        '''A net.

        And more about it.
        '''
    """


# ---- discovery ----


def test_each_group_has_a_list():
    groups = ("optimizers", "transforms", "methods", "heads", "necks", "backbones")
    listed = {group: densevit.list_plugins(group) for group in groups}
    for group, names in listed.items():
        assert names and all(registry.load(group, name) for name in names[:3]), group
    assert registry.find("backbones")["swin"].origin.startswith("densevit ")


def test_loading_a_third_party_plugin_imports_its_module_only(install):
    install(
        "stranger",
        "[densevit.backbones]\none = st_one:Net\ntwo = st_two:Net\n[console_scripts]\nx = st_two:main\n",
        {"st_one.py": NET, "st_two.py": "raise RuntimeError('imported')"},
    )
    assert registry.find("backbones")["one"].origin == "stranger 1.0"
    assert "st_one" not in sys.modules
    assert issubclass(registry.load("backbones", "one"), Backbone)
    assert "st_two" not in sys.modules


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


def test_unknown_name_error_lists_nearest_and_all():
    for group, name, message in (
        ("backbones", "swinn", r"There is no backbone 'swinn'\. Did you mean 'swin'\? Known: .*resnet.*swin"),
        ("backbones", {"name": "swin"}, r"name of a backbone is text, such as '\w+'; found {'name': 'swin'}"),
        ("backbone", "swin", "no plugin group 'backbone'. Did you mean 'backbones'"),
    ):
        with pytest.raises(PluginError, match=message):
            registry.load(group, name)


# ---- loading ----


def test_class_in_the_working_directory_needs_no_entry_point(tmp_path: Path, monkeypatch):
    (tmp_path / "nearby_net.py").write_text("import densevit\nclass Own(densevit.Backbone):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert registry.load("backbones", "nearby_net:Own").__name__ == "Own"


def test_missing_package_error_names_the_extra(install):
    metadata = "Metadata-Version: 2.1\nName: lazy\nVersion: 1.0\nRequires-Dist: absentee>=2; extra == 'more'\n"
    install("lazy", "[densevit.heads]\nlazy = lazy_head:Head\n", {"lazy_head.py": "import absentee.sub\n"}, metadata)
    with pytest.raises(PluginError, match=r"needs 'absentee', which is not installed\. Try `pip install absentee`"):
        registry.load("heads", "lazy")


def test_non_plugin_raises():
    for name, message in (
        ("json:JSONDecoder", "is the class JSONDecoder, which is not a densevit.Backbone"),
        ("no_such_module:Net", "there is no module 'no_such_module' in the working directory .*, on PYTHONPATH"),
        ("json.JSONDecoder", r"no backbone 'json\.JSONDecoder'\. For the class .* write json:JSONDecoder\."),
        ("torch.nn:Identity", "'Wrap a model you have' in docs/own-backbone.md"),
    ):
        with pytest.raises(PluginError, match=message):
            registry.load("backbones", name)


# ---- docstrings ----


def test_first_docstring_line_is_read_without_importing(install):
    files = {
        "far/__init__.py": "raise RuntimeError('imported')",
        "far/near/__init__.py": "from .deep import Net as Renamed\n",
        "far/near/deep.py": NET,
    }
    install("far", "[densevit.backbones]\na = far.near:Renamed\n", files)
    assert registry.first_line(registry.find("backbones")["a"]) == "A net."
    assert "far" not in sys.modules
