"""Files of earlier versions are read with equal predictions. tools/release/compatibility.py writes them."""

import json
from pathlib import Path

import numpy as np
import pytest

import densevit
from tools.release.compatibility import numbers

FOLDERS = sorted((Path(__file__).parent / "compatibility").iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_files_of_a_version_are_read_with_equal_predictions(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    expected = json.loads((folder / "numbers.json").read_text())
    read = dict(numbers(folder))
    assert {key: len(values) for key, values in read.items()} == {key: len(v) for key, v in expected.items()}
    for key, values in read.items():
        np.testing.assert_allclose(
            values, expected[key], rtol=1e-4, atol=1e-4, err_msg=key
        )  # other CPUs differ by 4e-5


def test_this_version_has_a_small_folder() -> None:
    folder = FOLDERS[0].with_name(densevit.__version__)
    assert folder in FOLDERS and sum(file.stat().st_size for file in folder.rglob("*")) < 2e6
