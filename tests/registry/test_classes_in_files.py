"""Which texts in a file count as a class that it names: by the types in the schema, at any depth and under any key."""

import copy
import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import densevit
from densevit import config as configs
from densevit.config import yaml_io
from densevit.errors import ConfigError, DensevitError
from densevit.weights import model_file

pytestmark = pytest.mark.integration

NAMES = (
    "weights",
    "name",
    "options",
    "heads",
    "sets",
    "neck",
    "evaluation",
    "data",
    "method",
    "teacher",
    "schedule",
    "transforms",
    "final_phase",
    "callbacks",
    "backbone",
    "optim",
    "trainer",
    "loggers",
    "pretrained",
)
CLASS = "sentinel_module:Sentinel"
VALUES: dict[str, Any] = {
    "backbone": {"name": "resnet", "depth": 18},
    "heads": {"weights": {"name": "setr", "neck": {"name": "fpn"}, "evaluation": {"name": "segmentation"}}},
    "data": {"name": "mix", "sets": {"weights": {"name": "scenes"}}, "final_phase": {"start": 0.5}},
    "method": {"name": "feature_distillation", "teacher": {"name": "resnet", "weights": "timm:resnet18"}},
    "optim": {"schedule": "cosine"},
    "trainer": {"max_steps": 1, "callbacks": [], "loggers": []},
}


@pytest.fixture(autouse=True)
def sentinel(cwd: Path, on_path: Callable[[Path], None]) -> None:
    """The module exists: importable is not trusted."""
    (cwd / "sentinel_module.py").write_text("class Sentinel: pass\n")
    on_path(cwd)


def header(rng: random.Random) -> dict[str, Any]:
    """VALUES with a class, or a nested mapping with classes under random names, at one or two places."""
    values = copy.deepcopy(VALUES)
    for _ in range(rng.choice((1, 1, 2))):
        inner: Any = values
        while True:
            inner = inner.setdefault(rng.choice((*inner, rng.choice(NAMES))), {}) if rng.random() < 0.8 else inner
            if not isinstance(inner, dict):
                break
            if rng.random() < 0.3:
                inner[rng.choice((*inner, rng.choice(NAMES)))] = nested(rng, rng.randrange(4))
                break
    return values


def nested(rng: random.Random, depth: int) -> Any:
    if depth == 0:
        return rng.choice((CLASS, CLASS, "resnet", "setr"))
    if rng.random() < 0.2:
        return [nested(rng, depth - 1)]
    return {rng.choice((*NAMES, CLASS)): nested(rng, depth - 1) for _ in range(rng.choice((1, 2)))}


def places(values: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where a value has the class, as a text or as a key."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from [(*key, "the key")] if name == CLASS else []
            yield from places(value, (*key, name))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from places(value, key)
    elif values == CLASS:
        yield key


def is_source(key: tuple[str, ...]) -> bool:
    """Whether the documentation says that a key has a source of weights."""
    if key[:1] == ("heads",):
        return key[2:] in {("weights",), ("neck", "weights")}
    return key in {("weights",), ("backbone", "weights"), ("method", "teacher", "weights"), ("method", "teacher")}


def test_random_headers_import_nothing():
    rng, read = random.Random(0), 0
    for _ in range(400):
        values = header(rng)
        try:
            config = configs.from_file(configs.values_of_file(json.dumps(values), "file"), "file")
        except ConfigError:
            continue
        read += 1
        assert [key for key in places(config.model_dump()) if not is_source(key)] == [], values
        if read <= 60:
            with suppress(DensevitError):
                configs.check_plugins(config)  # imports all plugins of the config
        assert "sentinel_module" not in sys.modules, values
    assert read > 40


def test_a_class_is_refused_at_each_place_but_sources_of_weights_and_free_texts():
    """Each key of a complete config in turn, by hand-written rules for what may hold any text."""
    complete = configs.from_mapping(VALUES | {"inference": {}}).model_dump()
    free = {("data", "val_split"), ("trainer", "strategy"), ("trainer", "devices"), ("trainer", "monitor")}
    refused, permitted = set(), set()

    def keys(values: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for name, value in values.items():
            yield (*key, name)
            if isinstance(value, dict):
                yield from keys(value, (*key, name))

    for key in keys(complete):
        values = copy.deepcopy(complete)
        inner = values
        for part in key[:-1]:
            inner = inner[part]
        inner[key[-1]] = CLASS
        try:
            configs.from_file(configs.values_of_file(json.dumps(values), "file"), "file")
        except ConfigError as error:
            if "is named in this file" in str(error):
                refused.add(key)
            continue
        permitted.add(key)
    assert {key for key in permitted if not is_source(key) and key not in free and "allow" not in key[-1]} <= {
        ("heads", "weights", "freeze"), ("backbone", "adapted_stem"), ("backbone", "freeze"),
        ("data", "display"), ("data", "channels"), ("data", "labelled_classes"), ("backbone", "lora", "targets"),
    }  # fmt: skip
    names = {key for key in keys(complete) if key[-1] == "name"}
    assert len(names) >= 8 and names <= refused


def test_sources_of_weights_in_options_need_no_trust():
    for teacher in ("timm:resnet18", {"name": "resnet", "weights": "timm:resnet18"}):
        for method in ("feature_distillation", "deit", "output_distillation"):
            if method == "feature_distillation" or isinstance(teacher, str):
                values = {**VALUES, "method": {"name": method, "teacher": teacher}}
                assert configs.values_of_file(json.dumps(values), "file") == values


MODEL = {"backbone": VALUES["backbone"], "heads": {"weights": {"name": CLASS}}}
BACKBONE = {"backbone": {"name": CLASS}, "heads": {}}


def write(folder: Path, values: dict[str, Any], model: Any = None) -> Path:
    """A model file whose header has these sections."""
    file, resnet = folder / "theirs.safetensors", {"name": "resnet", "depth": 18}
    densevit.save(model or densevit.create_model(resnet, {"seg": "setr"}, ["a", "b"], pretrained=False), file)
    save_file(load_file(file), file, {**model_file.read(file)[1], "config": yaml_io.write(values)})
    return file
