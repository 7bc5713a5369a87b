"""densevit/config/config_loading.py: configs are read from files and mappings, and written as YAML."""

from pathlib import Path

import pytest
import yaml

from densevit import config
from densevit.config import Config
from densevit.errors import ConfigError
from tests.config.conftest import write

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
    overrides = [
        "optim.lr_per_256=1e-5",
        "data.image_size=[96, 128]",
        "data.word='1e-4'",
        "data.no='yes'",
        "data.n=null",
        "heads.detection.neck={name: fpn, depth: 2}",
        "data.deep={a: [1, {b: c}]}",
    ]
    first = config.load("mine.yaml", overrides)
    write("dumped.yaml", config.dump(first, {"steps an epoch": "63"}))
    assert "# steps an epoch: 63\n" in Path("dumped.yaml").read_text()
    assert config.load("dumped.yaml") == first
    assert config.from_mapping(yaml.safe_load(config.dump(first))) == first  # YAML 1.1 parsers agree
    assert list(yaml.safe_load(config.dump(first))) == list(Config.model_fields)


# ---- merging ----


# ---- errors ----


def test_a_mapping_has_a_base_and_section_files():
    given = {"base": "mine.yaml", "data": "coco", "trainer": {"max_steps": 3}}
    assert config.load(given, ["seed=7"]) == config.load(write("same.yaml", yaml.safe_dump(given)), ["seed=7"])
    with pytest.raises(ConfigError, match=r"config: base: there is no config file 'nothing'"):
        config.load({"base": "nothing"})


# ---- plugin options ----
