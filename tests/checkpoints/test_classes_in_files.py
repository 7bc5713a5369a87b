"""The export for transformers imports no class that a backbone's file names, unless the file is trusted."""

import sys
from pathlib import Path
from typing import Any

import pytest

from densevit.errors import ConfigError
from densevit_checkpoints.transformers_export import load_backbone
from tests.registry.test_classes_in_files import BACKBONE, CLASS, write
from tests.registry.test_classes_in_files import imported as imported  # a fixture of all tests

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("values", [BACKBONE, {"backbone": {"name": "resnet", "weights_of": {"weights": CLASS}}}])
def test_a_backbone_s_file_refuses_a_class(values: dict[str, Any], tmp_path: Path, imported: list[str]) -> None:
    file = write(tmp_path, values)
    with pytest.raises(ConfigError, match="is named in this file"):
        load_backbone(file)
    assert imported == [] and "sentinel_module" not in sys.modules
