"""Overrides as texts and as a mapping, and the source that messages name: the command line only for its words."""

import argparse
from typing import Any
from unittest import mock

import pytest

import densevit
from densevit import config as configs
from densevit import registry
from densevit.cli import command, main
from densevit.errors import Argument, ConfigError

MAPPING = {"optim.lr": 1e-3, "trainer": {"max_images": 64}, "data.transforms": "resize", "data": "coco", "seed": 3}
TEXTS = ["optim.lr=0.001", "trainer={max_images: 64}", "data.transforms=resize", "data=coco", "seed=3"]


def test_a_mapping_equals_texts() -> None:
    loaded = configs.load("detr_swin", MAPPING)
    assert loaded == configs.load("detr_swin", TEXTS) and loaded.optim.lr == 1e-3 and loaded.trainer.max_images == 64
    assert configs.with_overrides(loaded, {"seed": 4}).seed == 4
    assert configs.load("detr_swin", {"trainer.patience": None}).trainer.patience is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optim.lr": "fast"}, r"^overrides: optim\.lr should be a valid number, not 'fast'\.$"),
        (["optim.lr=fast"], r"^overrides: optim\.lr should be a valid number, not 'fast'\.$"),
        ([Argument("optim.lr=fast")], r"^command line: optim\.lr should be a valid number, not 'fast'\.$"),
        ({"": 1}, r"^'' is not an override"),
        (["optim.lr="], r"^overrides: optim\.lr has no value"),
        ({"data": "nowhere"}, r"^overrides: there is no config file or data folder 'nowhere'"),
    ],
)
def test_a_message_names_the_source(overrides: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        densevit.fit("detr_swin", overrides)


def test_an_evaluation_takes_a_mapping() -> None:
    with pytest.raises(ConfigError, match=r"^optim\.lr: the model exists, and cannot change"):
        configs.check_evaluation_overrides({"optim.lr": 1})
    configs.check_evaluation_overrides({"data.batch_size": 1})


def commands_with_overrides() -> list[str]:
    """The commands whose parser has positional arguments named `overrides` or `configs`."""
    names = []
    for name in registry.find("commands"):
        _, parser = command(name)
        names += [name for action in parser._actions if action.dest in ("overrides", "configs")]
    return names


@pytest.mark.parametrize("name", commands_with_overrides())
def test_each_command_passes_words_of_the_command_line(name: str) -> None:
    module, parser = command(name)
    needed = [a for a in parser._actions if not a.option_strings and a.nargs in (None, "?")]
    words = [str(next(iter(a.choices))) if a.choices else "x" for a in needed]
    seen: list[argparse.Namespace] = []
    with mock.patch.object(module, "run", lambda args: seen.append(args) or 0):
        assert main([*name.split(), *words, "data.root=y"]) == 0
    texts = getattr(seen[0], "overrides", None) or getattr(seen[0], "configs", None)
    assert [type(text) for text in texts if "=" in text] == [Argument]
