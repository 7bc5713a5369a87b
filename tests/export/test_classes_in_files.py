"""A class that an exported file names is not imported without trust."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from densevit.errors import ConfigError
from densevit.weights import model_file
from densevit_export import engine
from tests.registry.test_classes_in_files import MODEL, write
from tests.registry.test_classes_in_files import imported as imported  # a fixture of all tests

pytestmark = pytest.mark.integration


def exported(file: Path) -> Any:
    """An exported file, .onnx or .pt2, with the header of a model file."""
    return SimpleNamespace(path=file.with_suffix(".onnx"), header={"model": model_file.read(file)[1], "heads": {}})


def test_an_exported_file_refuses_a_class(tmp_path, imported):
    file = write(tmp_path, MODEL)
    with pytest.raises(ConfigError, match="is named in this file"):
        engine.build(exported(file))
    assert imported == [] and "sentinel_module" not in sys.modules
