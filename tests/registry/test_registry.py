"""Plugins are found by entry points, loaded individually, and their options are checked."""

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

        def __init__(self, width: int = 8, rate: float = 0.1, shape: tuple[int, int] = (1, 1), flag: bool = False,
                     kind: str = "a", loose=None):
            super().__init__()
            self.given = (width, rate, shape, flag, kind, loose)
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


# ---- options ----


@pytest.fixture
def net(install) -> str:
    install("nets", "[densevit.backbones]\nnet = nets_net:Net\n", {"nets_net.py": NET})
    return "net"


def test_options_are_converted_to_the_annotated_types(net):
    given = {"rate": "1e-4", "width": 16.0, "shape": [2, 3], "flag": True, "kind": "b", "loose": {"any": ["thing"]}}
    checked = {**given, "rate": 1e-4, "width": 16, "shape": (2, 3)}
    assert registry.check_options("backbones", net, given, "backbone") == checked
    backbone = registry.create("backbones", net, options={"shape": [4, 5], "rate": 1}, where="backbone")
    assert backbone.given == (8, 1.0, (4, 5), False, "a", None)


def test_invalid_option_error_names_it(net):
    for given, message in (
        ({"widht": 3}, "widht is not an option of 'net'. Did you mean 'width'? Options: width, rate, shape, "),
        ({"width": "tiny"}, "width should be a valid integer, not 'tiny'."),
        ({"width": True}, "width should be int, not true."),
        ({"flag": 1}, "flag should be bool, not 1."),
        ({"shape": [1, "x"]}, "shape should be a valid integer, not [1, 'x']."),
    ):
        with pytest.raises(PluginError) as caught:
            registry.check_options("backbones", net, given, "backbone")
        assert str(caught.value).startswith(f"backbone.{message}")


def test_framework_arguments_are_no_options_and_others_may_be_required(install):
    source = """
        import densevit

        class Head(densevit.Head):
            def __init__(self, channels, strides, classes, queries: int, *, depth: int = 2):
                pass

        class Passing(Head):
            def __init__(self, channels, strides, classes, width: int = 8, **options):
                super().__init__(channels, strides, classes, **options)
        """
    install("heads", "[densevit.heads]\nhead = hd:Head\n", {"hd.py": source})
    for name, given, expected in (
        ("head", {"queries": 3}, {"queries": 3}),
        ("hd:Passing", {"queries": "3", "other": 1}, {"queries": 3, "other": 1}),
    ):
        assert registry.check_options("heads", name, given, "heads.a") == expected
    for name, given, message in (
        ("head", {}, "heads.a.queries is missing: 'head' needs it"),
        ("head", {"classes": 3, "queries": 1}, r"heads.a.classes is not an option .* Options: queries, depth"),
        ("hd:Passing", {"widht": 1}, r"heads\.a\.widht .* Did you mean 'width'\?"),
    ):
        with pytest.raises(PluginError, match=message):
            registry.check_options("heads", name, given, "heads.a")


LAYERS = """
    from dataclasses import dataclass, field
    from typing import Literal

    import densevit

    @dataclass(frozen=True)
    class Norm:
        kind: Literal["layer", "batch"] = "layer"

    @dataclass(frozen=True)
    class Layers:
        width: int = 256
        count: int = 6
        rate: float = 0.1
        norm: Norm = field(default_factory=Norm)

        def __post_init__(self):
            if self.width % 4:
                raise ValueError(f"width is {self.width}; it must be a multiple of 4.")

    class Net(densevit.Backbone):
        def __init__(self, layers: Layers = Layers(count=3), further: Layers | None = None):
            super().__init__()
            self.given = layers, further
            self.channels, self.strides = (1,), (1,)
    """


@pytest.fixture
def layered(install) -> str:
    install("layered", "[densevit.backbones]\nlayered = layered_net:Net\n", {"layered_net.py": LAYERS})
    return "layered"


def test_mapping_becomes_the_dataclass_over_the_default(layered):
    options = {"layers": {"width": 16.0, "norm": {"kind": "batch"}}, "further": {"rate": "1e-4"}}
    layers, further = registry.create("backbones", layered, options=options, where="backbone").given
    assert (layers.width, layers.count, layers.rate, layers.norm.kind) == (16, 3, 0.1, "batch")
    assert (further.width, further.count, further.rate) == (256, 6, 1e-4)
    given = {"layers": layers, "further": None}
    assert registry.check_options("backbones", layered, given, "backbone") == given


def test_invalid_keys_of_a_dataclass_are_named_in_full(layered):
    known = "Options: width, count, rate, "
    for given, message in (
        ({"layers": {"widht": 3}}, f"layers.widht is not an option of 'layered'. Did you mean 'width'? {known}"),
        ({"layers": {"norm": {"kind": "none"}}}, "layers.norm.kind should be 'layer' or 'batch', not 'none'."),
        ({"layers": 3}, "layers should be a section of keys, not 3. Keys: width, count, rate, norm."),
        ({"layers": {"width": 5}}, "layers is invalid: width is 5; it must be a multiple of 4."),
    ):
        with pytest.raises(PluginError) as caught:
            registry.check_options("backbones", layered, given, "backbone")
        assert str(caught.value).startswith(f"backbone.{message}")


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
