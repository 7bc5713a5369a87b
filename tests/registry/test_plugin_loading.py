"""Plugins are loaded one by one."""

import sys

import pytest

from densevit import registry
from densevit.errors import PluginError
from densevit.interfaces import Backbone
from tests.registry.test_finding import NET


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


def test_unknown_name_error_lists_nearest_and_all():
    for group, name, message in (
        ("backbones", "swinn", r"There is no backbone 'swinn'\. Did you mean 'swin'\? Known: .*resnet.*swin"),
        ("backbones", {"name": "swin"}, r"name of a backbone is text, such as '\w+'; found {'name': 'swin'}"),
        ("backbone", "swin", "no plugin group 'backbone'. Did you mean 'backbones'"),
    ):
        with pytest.raises(PluginError, match=message):
            registry.load(group, name)


def test_non_plugin_raises():
    for name, message in (
        ("json:JSONDecoder", "is the class JSONDecoder, which is not a densevit.Backbone"),
        ("no_such_module:Net", "there is no module 'no_such_module' in the working directory .*, on PYTHONPATH"),
        ("json.JSONDecoder", r"no backbone 'json\.JSONDecoder'\. For the class .* write json:JSONDecoder\."),
        ("torch.nn:Identity", "'Wrap a model you have' in docs/own-backbone.md"),
    ):
        with pytest.raises(PluginError, match=message):
            registry.load("backbones", name)
