"""A class that a file of heads or of a model to join names is not imported without trust."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import densevit
from densevit.errors import ConfigError
from densevit_batch.model_joining import read_part
from tests.registry.test_classes_in_files import MODEL, write
from tests.registry.test_classes_in_files import imported as imported  # a fixture of all tests

DOORS: dict[str, Callable[[Path], Any]] = {
    "load heads": lambda file: densevit.load(file, backbone=file),
    "join": read_part,
}


@pytest.mark.parametrize("door", DOORS)
def test_door_refuses_a_class(door, tmp_path):
    file = write(tmp_path, MODEL)
    with pytest.raises(ConfigError, match="is named in this file"):
        DOORS[door](file)
    assert "sentinel_module" not in sys.modules
