"""YAML files of other programs."""

import pytest

from densevit.errors import DataError
from densevit_workbench.interchange.yaml_text import read_yaml_as_text


def test_errors_name_the_file(tmp_path):
    (tmp_path / "a.file").write_bytes(b"a: [")
    with pytest.raises(DataError, match="a.file is not valid YAML: "):
        read_yaml_as_text(tmp_path / "a.file")
