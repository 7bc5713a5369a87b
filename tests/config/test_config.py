"""Configs: merging of files, sections and overrides, and error messages."""

import math
from pathlib import Path

import pytest
import yaml

from densevit import config
from densevit.config import Config, yaml_io
from densevit.errors import ConfigError

MINE = """\
backbone: {name: swin, variant: nano, freeze: true}
heads:
  detection: {name: detr, num_queries: 40, loss_weight: 2}
data: {name: scenes, image_size: 160, batch_size: 16, train_length: 50}
optim: {lr: 5e-4, schedule: step}
trainer: {max_epochs: 20}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with mine.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(MINE)
    return tmp_path


def message(*overrides: str, file: str = "mine.yaml") -> str:
    """The error message of loading."""
    with pytest.raises(ConfigError) as caught:
        config.load(file, overrides)
    return str(caught.value)


def write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


# ---- single files ----


def test_file_is_parsed_into_sections_with_defaults_and_options():
    loaded = config.load("mine.yaml")
    backbone = loaded.backbone
    assert (backbone.name, backbone.freeze, backbone.options) == ("swin", True, {"variant": "nano"})
    head = loaded.heads["detection"]
    assert (head.loss_weight, head.neck, head.evaluation.name, head.options) == (2.0, None, None, {"num_queries": 40})
    assert (loaded.data.batch_size, loaded.data.num_workers, loaded.data.options) == (16, "auto", {"train_length": 50})
    assert (loaded.seed, loaded.optim.lr, loaded.trainer.max_steps) == (0, 5e-4, None)


def test_dump_round_trips():
    overrides = ["optim.lr_per_256=1e-5", "data.image_size=[96, 128]", "data.word='1e-4'", "data.no='yes'"]
    overrides += ["data.n=null", "heads.detection.neck={name: fpn, depth: 2}", "data.deep={a: [1, {b: c}]}"]
    first = config.load("mine.yaml", overrides)
    write("dumped.yaml", config.dump(first, {"steps an epoch": "63"}))
    assert "# steps an epoch: 63\n" in Path("dumped.yaml").read_text()
    assert config.load("dumped.yaml") == first
    assert config.from_mapping(yaml.safe_load(config.dump(first))) == first  # YAML 1.1 parsers agree
    assert list(yaml.safe_load(config.dump(first))) == list(Config.model_fields)


def test_plain_scalars_are_parsed_by_their_form():
    values = {"1e-4": 1e-4, "-2.5E+3": -2500.0, ".5": 0.5, "1_000": 1000, "010": 10, "true": True, ".inf": math.inf}
    values |= {"~": None, "[1e-4, x]": [1e-4, "x"]}
    values |= {word: word for word in ("yes", "off", "12:30", "2024-01-02", "1e", "e5", "0x1F", "1.2.3")}
    for text, value in values.items():
        read = yaml_io.parse(f"key: {text}", "test")["key"]
        assert read == value and type(read) is type(value), text
        assert yaml_io.parse(yaml_io.write({"key": value}), "test") == {"key": value}


def test_quoted_numbers_and_whole_floats_are_converted():
    loaded = config.load("mine.yaml", ["optim.lr='1e-4'", "trainer.max_steps=1e4", "trainer.precision=32"])
    assert (loaded.optim.lr, loaded.trainer.max_steps, loaded.trainer.precision) == (1e-4, 10000, "32")


def test_lr_and_lr_per_256_are_exclusive():
    assert config.load("mine.yaml", ["optim={schedule: cosine}"]).optim.lr == 5e-4
    write("bare.yaml", MINE.replace("lr: 5e-4, ", ""))
    assert config.load("bare.yaml").optim.lr == 1e-4
    per_256 = config.load("mine.yaml", ["optim.lr_per_256=1e-3"]).optim
    assert (per_256.lr, per_256.lr_per_256) == (None, 1e-3)
    assert "lr and lr_per_256 are both set" in message("optim.lr_per_256=1e-3", "optim.lr=1e-3")


# ---- merging ----


def test_base_is_relative_to_the_file_and_merged_by_key():
    write("deep/base.yaml", MINE)
    write("deep/mine.yaml", "base: base.yaml\nseed: 3\ndata: {batch_size: 4}\nheads: {extra: {name: detr}}\n")
    loaded = config.load("deep/mine.yaml")
    assert (loaded.seed, loaded.data.batch_size, loaded.data.image_size) == (3, 4, 160)
    assert list(loaded.heads) == ["detection", "extra"]


def test_changing_the_plugin_drops_its_options_and_keeps_common_keys():
    loaded = config.load("mine.yaml", ["backbone.depth=50", "backbone.name=resnet", "heads.detection.name=other"])
    assert (loaded.backbone.options, loaded.backbone.freeze) == ({"depth": 50}, True)
    assert (loaded.heads["detection"].options, loaded.heads["detection"].loss_weight) == ({}, 2.0)
    write("child.yaml", "base: mine.yaml\ndata: {name: coco, root: here}\n")
    child = config.load("child.yaml")
    assert (child.data.options, child.data.batch_size) == ({"root": "here"}, 16)
    assert config.load("mine.yaml", ["backbone.name=swin"]).backbone.options == {"variant": "nano"}


def test_section_file_replaces_the_whole_section():
    write("parts/coco.yaml", "name: coco\nroot: there\n")
    by_override = config.load("mine.yaml", ["data.root=here", "data=parts/coco.yaml"])
    assert by_override.data.options == {"root": "here"}
    assert by_override.data.batch_size == 8  # the default: nothing of the previous section is kept
    write("child.yaml", "base: mine.yaml\ndata: parts/coco.yaml\n")
    assert config.load("child.yaml").data.options == {"root": "there"}


def test_heads_are_added_from_files_and_removed_with_null():
    write("parts/small.yaml", "name: detr\nnum_queries: 10\nwidth: 32\n")
    write("parts/tiny.yaml", "base: small.yaml\nwidth: 16\n")
    loaded = config.load("mine.yaml", ["heads.second=parts/tiny.yaml", "heads.detection=null"])
    assert {name: head.options for name, head in loaded.heads.items()} == {"second": {"num_queries": 10, "width": 16}}


def test_shipped_configs_and_sections_are_found_by_name_and_path(folder, monkeypatch):
    write("site/densevit_configs/__init__.py", "")
    write("site/densevit_configs/shipped.yaml", MINE)
    write("site/densevit_configs/data/coco.yaml", "name: coco\n")
    monkeypatch.syspath_prepend(folder / "site")
    for name in ("shipped", "shipped.yaml", "configs/shipped.yaml"):
        assert config.load(name, ["data=configs/data/coco.yaml"]).data.name == "coco"
    assert config.load("shipped", ["data=coco"]).data.name == "coco"
    write("child.yaml", "base: shipped\n")
    assert config.load("child.yaml").backbone.name == "swin"
    assert message(file="shiped") == (
        "there is no config file 'shiped'. Did you mean 'shipped'? Shipped: data/, shipped."
    )
    assert "'cocoa'. Did you mean 'coco'? Shipped: data/coco." in message("data=cocoa")


def test_the_nearest_name_is_of_the_typed_folder_and_names_that_continue_it_come_first(folder, monkeypatch):
    names = ("detector", "setr_vit", "start/detector", "start/semantic", "backbone/lite0", "backbone/lite1")
    for name in names:
        write(f"site/densevit_configs/{name}.yaml", MINE)
    write("site/densevit_configs/__init__.py", "")
    write("sets/cvat_coco/train.json", "{}")
    write("runs/first/config.yaml", MINE)
    monkeypatch.syspath_prepend(folder / "site")
    start = " Shipped: start/detector, start/semantic."
    for file, said in {
        "start/detectors": f" Did you mean 'start/detector'?{start}",
        "start": f" Did you mean 'start/detector' or 'start/semantic'?{start}",
        "starts/detector": " Did you mean 'start/detector'? Shipped: backbone/, detector, setr_vit, start/.",
        "runs/frist": " Did you mean 'runs/first'?",
    }.items():
        assert f"there is no config file '{file}'.{said}" in message(file=file)
    said = message("backbone=lite")
    assert " Did you mean 'lite0' or 'lite1'? Shipped: backbone/lite0, backbone/lite1." in said
    said = message("data=sets/cvat_cocoo")
    assert "no config file or data folder 'sets/cvat_cocoo'. Did you mean 'sets/cvat_coco'?" in said


# ---- errors ----


def test_each_error_has_a_line_and_names_its_file():
    write("base.yaml", MINE.replace("lr: 5e-4", "lr: fast"))
    write("child.yaml", "base: base.yaml\nseed: -1\n")
    assert message("trainer.emma=0.9", file="child.yaml").splitlines() == [
        "child.yaml: seed should be greater than or equal to 0, not -1.",
        "base.yaml: optim.lr should be a valid number, not 'fast'.",
        "overrides: trainer.emma is not a key of trainer. Did you mean 'ema'? "
        f"Keys: {', '.join(sorted(config.TrainerSection.model_fields))}.",
    ]


def test_a_mapping_has_a_base_and_section_files():
    given = {"base": "mine.yaml", "data": "coco", "trainer": {"max_steps": 3}}
    assert config.load(given, ["seed=7"]) == config.load(write("same.yaml", yaml.safe_dump(given)), ["seed=7"])
    with pytest.raises(ConfigError, match=r"config: base: there is no config file 'nothing'"):
        config.load({"base": "nothing"})


# ---- plugin options ----


def test_all_wrong_options_of_all_plugins_are_listed():
    wrong = ["backbone.varient=x", "data.rot=x", "data.train_lenght=3", "heads.detection.name=dettr", "optim.name=x:Y"]
    with pytest.raises(ConfigError) as caught:
        config.check_plugins(config.load("mine.yaml", wrong))
    keys = [line.removeprefix("overrides: ").split()[0] for line in str(caught.value).splitlines()]
    assert keys == ["backbone.varient", "heads.detection.name:", "data.rot", "data.train_lenght", "optim.name:"]


def test_a_run_has_the_full_name_of_a_shipped_recipe():
    write("start/mine.yaml", "base: detector\n")
    names = ("detector", "start/detector", "configs/start/detector.yaml", yaml_io.find_file("start/detector"))
    assert [yaml_io.run_name(name) for name in names] == ["detector", *["start-detector"] * 3]
    assert yaml_io.run_name("start/mine.yaml") == "mine"
