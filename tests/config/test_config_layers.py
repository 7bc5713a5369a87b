"""The rules by which layers of a config are merged: the rows of the table in `config_layers`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from densevit import config as configs
from densevit.config import config_layers, layer_reading
from densevit.errors import ConfigError

LOWER = """\
backbone: {name: swin, variant: nano, freeze: true, weights: a.pth}
heads:
  boxes: {name: detr, num_queries: 40, weights: b.pth}
  areas: {name: setr}
data: {name: coco, root: d, channels: {red: _r, nir: _n}, final_phase: {start: 0.5, transforms: crop}}
optim: {lr: 1e-3, warmup: 0.1, lr_factors: {heads.*: 10}}
trainer: {max_epochs: 2}
"""
SETS = "data: {name: mix, sets: {a: {name: coco, root: a}, b: {name: yolo}}}"
Row = tuple[
    str, Sequence[str], dict[str, Any] | str
]  # changes of the lower file or the upper file, overrides, the result
ROWS: dict[str, list[Row]] = {
    "a section, `heads`, `data.sets`": [
        ("optim: {lr: 2e-3}", (), {"optim.lr": 2e-3, "optim.warmup": 0.1}),
        (
            "heads: {areas: {freeze: true}}",
            (),
            {"heads.areas.freeze": True, "heads.areas.name": "setr", "heads.boxes.num_queries": 40},
        ),
        ("", ["optim={lr: 2e-3}"], {"optim.lr": 2e-3, "optim.warmup": 0.1}),
        (SETS, ["data.sets.a.root=c"], {"data.sets.a": {"name": "coco", "root": "c"}, "data.sets.b": {"name": "yolo"}}),
    ],
    "another mapping, a list, a value": [
        ("data: {channels: {nir: _x}}", (), {"data.channels": {"nir": "_x"}}),
        ("optim: {lr_factors: {backbone.*: 2}}", (), {"optim.lr_factors": {"backbone.*": 2.0}}),
        ("backbone: {freeze: [stages.0.*]}", ["backbone.freeze=[stages.1.*]"], {"backbone.freeze": ("stages.1.*",)}),
    ],
    "`section.key=value`": [
        ("", ["data.channels.nir=_x"], {"data.channels": {"red": "_r", "nir": "_x"}}),
        ("", ["data.channels={nir: _x}", "data.channels.blue=_b"], {"data.channels": {"nir": "_x", "blue": "_b"}}),
        ("", ["data.final_phase.transforms=resize"], {"data.final_phase.transforms": {"name": "resize"}}),
    ],
    "a section that names a file": [
        (
            "backbone: section.yaml",
            (),
            {"backbone.freeze": False, "backbone.variant": "tiny", "backbone.weights": "a.pth"},
        ),
        ("", ["backbone=section.yaml"], {"backbone.freeze": False, "backbone.weights": "a.pth"}),
        ("", ["backbone=with_weights.yaml"], {"backbone.weights": "c.pth"}),
        ("backbone: {freeze: 2}", ["backbone=section.yaml", "backbone.freeze=3"], {"backbone.freeze": 3}),
    ],
    "another `name`": [
        (
            "backbone: {name: resnet, depth: 18}",
            (),
            {"backbone.depth": 18, "backbone.variant": None, "backbone.freeze": True},
        ),
        ("backbone: {name: swin}", (), {"backbone.variant": "nano"}),
        ("", ["heads.boxes.name=dino"], {"heads.boxes.num_queries": None, "heads.boxes.weights": "b.pth"}),
        ("data: {val: {name: coco, root: v}}", ["data.name=yolo"], {"data.val": None, "data.channels.red": "_r"}),
        ("data: {val: {name: coco, root: v}}", ["data.name=coco"], {"data.val": {"name": "coco", "root": "v"}}),
    ],
    "`null` in `heads`, `data.sets`": [
        ("heads: {boxes: null}", (), {"heads.boxes": None, "heads.areas.name": "setr"}),
        (SETS, ["data.sets.b=null"], {"data.sets": {"a": {"name": "coco", "root": "a"}}}),
    ],
    "one of two alternatives, such as `lr` and `lr_per_256`": [
        (
            "optim: {lr_per_256: 1e-4, warmup_steps: 5}",
            (),
            {"optim.lr": None, "optim.warmup": 0.0, "optim.warmup_steps": 5},
        ),
        ("", ["trainer.max_steps=3"], {"trainer.max_epochs": None, "trainer.max_steps": 3}),
        ("", ["backbone.pretrained=true"], {"backbone.weights": None}),
        ("", ["backbone.pretrained=false"], {"backbone.weights": "a.pth"}),
        ("optim: {lr_per_256: null}", (), {"optim.lr": 1e-3}),
        (
            "backbone: {pretrained: true}",
            ["backbone.weights=b"],
            {"backbone.weights": "b", "backbone.pretrained": None},
        ),
        (
            "",
            ["backbone.weights=b", "backbone.pretrained=true"],
            r"backbone\.weights=b .* and backbone\.pretrained=true .*Fix: keep one",
        ),
        (
            "",
            ["backbone.weights=random", "backbone.pretrained=true"],
            r"weights=random .*and backbone\.pretrained=true",
        ),
    ],
    "`weights`": [
        ("weights: w.pth", (), {"weights": "w.pth", "backbone.weights": None, "heads.boxes.weights": None}),
        ("weights: v.pth", ["weights=w.pth"], {"weights": "w.pth", "backbone.weights": None}),
        ("backbone: with_weights.yaml\nweights: w.pth", (), {"weights": "w.pth", "backbone.weights": None}),
    ],
    "weights of a part, another backbone": [
        (
            "weights: w.pth",
            ["backbone.weights=x.pth"],
            r"weights=w.pth \(.*upper.yaml\) and backbone.weights=x.pth \(overrides\)",
        ),
        (
            "weights: w.pth",
            ["heads.areas.weights=x.pth"],
            r"heads.areas.weights=x.pth \(overrides\) set weights of the same",
        ),
        (
            "weights: w.pth\nbackbone: {weights: x.pth}",
            (),
            r"weights=w.pth \(.*\) and backbone.weights=x.pth \(.*\) set",
        ),
        ("weights: w.pth", ["backbone.name=vit"], r"backbone.name=vit \(overrides\) is another backbone"),
        ("weights: w.pth", ["backbone=section.yaml"], r"backbone.name=vit \(section.yaml\) is another backbone"),
        ("weights: w.pth", ["backbone.name=swin"], {"weights": "w.pth", "backbone.variant": "nano"}),
        ("weights: w.pth", ["backbone.name=vit", "weights=null"], {"weights": None, "backbone.weights": "a.pth"}),
    ],
    "another backbone": [
        (
            "",
            ["backbone.name=vit"],
            r"backbone.weights=a.pth \(lower.yaml\) is for another backbone than backbone.name=vit",
        ),
        (
            "",
            ["backbone=section.yaml"],
            r"weights=a.pth \(lower.yaml\) is for another backbone than .* \(section.yaml\)",
        ),
        ("backbone: {name: vit}", ["heads.areas.weights=x.pth"], "is for another backbone than backbone.name=vit"),
        ("", ["backbone.name=swin"], {"backbone.weights": "a.pth"}),
        ("", ["backbone.name=vit", "backbone.weights=x.pth"], {"backbone.name": "vit", "backbone.weights": "x.pth"}),
    ],
}


@pytest.fixture(autouse=True)
def folder(cwd: Path) -> None:
    Path("section.yaml").write_text("name: vit\nvariant: tiny\n")
    Path("with_weights.yaml").write_text("name: vit\nweights: c.pth\n")
    Path("lower.yaml").write_text(LOWER)


def test_the_table_has_the_tested_rules() -> None:
    assert config_layers.__doc__ is not None
    rules = re.findall(r"^\| (.+?) \| .+ \|$", config_layers.__doc__, re.MULTILINE)
    assert rules == ["the upper layer has", *ROWS]


@pytest.mark.parametrize(("upper", "overrides", "result"), [row for rows in ROWS.values() for row in rows])
def test_layers_are_merged_as_in_the_table(upper: str, overrides: Sequence[str], result: dict[str, Any] | str) -> None:
    Path("upper.yaml").write_text(f"base: lower.yaml\n{upper}\n")
    if isinstance(result, str):
        with pytest.raises(ConfigError, match=result):
            config = configs.load("upper.yaml", overrides)
            configs.check_plugins(config)
        return
    config = configs.load("upper.yaml", overrides)
    assert {key: config_layers.at(config.model_dump(), tuple(key.split("."))) for key in result} == result


def test_a_value_has_the_source_of_the_layer_that_sets_it() -> None:
    upper = {
        "backbone": "section.yaml",
        "optim": {"lr": 2.0, "lr_factors": {"a": 1}},
        "heads": {"new": {"name": "setr"}},
    }
    layer = layer_reading.over_base({"base": "lower.yaml", **upper}, "upper")
    layer = layer_reading.with_overrides(layer, {"backbone.freeze": True, "optim": {"warmup": 0.2}})
    sources = {
        "backbone.name": "section.yaml", "backbone.freeze": "overrides", "backbone.missing": "section.yaml",
        "optim.lr": "upper", "optim.warmup": "overrides", "optim.missing": "lower.yaml", "optim.lr_factors": "upper",
        "heads.boxes.name": "lower.yaml", "heads.new.missing": "upper", "missing": "upper",
    }  # fmt: skip
    assert {key: layer.source_of(tuple(key.split("."))) for key in sources} == sources
