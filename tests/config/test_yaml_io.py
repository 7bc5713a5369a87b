"""densevit/config/yaml_io.py: scalars of YAML, and how configs are found by name and path."""

import math

from densevit import config
from densevit.config import yaml_io
from tests.config.conftest import MINE, message, write


def test_plain_scalars_are_parsed_by_their_form():
    values = {
        "1e-4": 1e-4,
        "-2.5E+3": -2500.0,
        ".5": 0.5,
        "1_000": 1000,
        "010": 10,
        "true": True,
        ".inf": math.inf,
        "~": None,
        "[1e-4, x]": [1e-4, "x"],
    }
    values |= {word: word for word in ("yes", "off", "12:30", "2024-01-02", "1e", "e5", "0x1F", "1.2.3")}
    for text, value in values.items():
        read = yaml_io.parse(f"key: {text}", "test")["key"]
        assert read == value and type(read) is type(value), text
        assert yaml_io.parse(yaml_io.write({"key": value}), "test") == {"key": value}


def test_shipped_configs_and_sections_are_found_by_name_and_path(install):
    files = {"__init__.py": "", "shipped.yaml": MINE, "data/coco.yaml": "name: coco\n"}
    install("recipes", "", {f"densevit_configs/{name}": text for name, text in files.items()})
    for name in ("shipped", "shipped.yaml", "configs/shipped.yaml"):
        assert config.load(name, ["data=configs/data/coco.yaml"]).data.name == "coco"
    assert config.load("shipped", ["data=coco"]).data.name == "coco"
    write("child.yaml", "base: shipped\n")
    assert config.load("child.yaml").backbone.name == "swin"
    assert message(file="shiped") == (
        "there is no config file 'shiped'. Did you mean 'shipped'? Shipped: data/, shipped."
    )
    assert "'cocoa'. Did you mean 'coco'? Shipped: data/coco." in message("data=cocoa")


def test_the_nearest_name_is_of_the_typed_folder_and_names_that_continue_it_come_first(install):
    names = ("detector", "setr_vit", "start/detector", "start/semantic", "backbone/lite0", "backbone/lite1")
    files = {f"densevit_configs/{name}.yaml": MINE for name in names}
    install("recipes", "", {"densevit_configs/__init__.py": "", **files})
    write("sets/cvat_coco/train.json", "{}")
    write("runs/first/config.yaml", MINE)
    start = " Shipped: start/detector, start/semantic."
    for file, said in {
        "start/detectors": f" Did you mean 'start/detector'?{start}",
        "start": f" Did you mean 'start/detector' or 'start/semantic'?{start}",
        "starts/detector": " Did you mean 'start/detector'? Shipped: backbone/, detector, setr_vit, start/.",
        "runs/frist": " Did you mean 'runs/first'?",
        "data=a": " Overrides follow a config.",
    }.items():
        assert f"there is no config file '{file}'.{said}" in message(file=file)
    said = message("backbone=lite")
    assert " Did you mean 'lite0' or 'lite1'? Shipped: backbone/lite0, backbone/lite1." in said
    said = message("data=sets/cvat_cocoo")
    assert "no config file or data folder 'sets/cvat_cocoo'. Did you mean 'sets/cvat_coco'?" in said


def test_a_run_has_the_full_name_of_a_shipped_recipe():
    write("start/mine.yaml", "base: detector\n")
    names = ("detector", "start/detector", "configs/start/detector.yaml", yaml_io.find_file("start/detector"))
    assert [yaml_io.run_name(name) for name in names] == ["detector", *["start-detector"] * 3]
    assert yaml_io.run_name("start/mine.yaml") == "mine"
