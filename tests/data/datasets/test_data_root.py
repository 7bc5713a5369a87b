"""Mistakes in `data.root`: each message names what was found and the nearest folder."""

import pytest

from densevit.data.datasets.split_folders import root_folder
from densevit.errors import DataError


def test_a_misspelt_folder_suggests_the_nearest_and_a_file_is_no_missing_folder(tmp_path, monkeypatch):
    (tmp_path / "cells_coco").mkdir()
    (tmp_path / "cell_coco.txt").write_text("a file, which is no suggestion")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no folder cell_coco \(working directory .*\)\. Did you mean 'cells_coco'\?$"):
        root_folder("cell_coco")
    with pytest.raises(DataError, match=f"Did you mean '{tmp_path}/cells_coco'"):
        root_folder(f"{tmp_path}/cellscoco")
    with pytest.raises(DataError, match=r"there is no folder flowers \(working directory [^?]*$"):
        root_folder("flowers")
    with pytest.raises(DataError, match=r"there is no folder nowhere/cells_coco \(working directory [^?]*$"):
        root_folder("nowhere/cells_coco")
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(DataError, match=r"train\.json is a file; the data set's folder is expected"):
        root_folder(str(tmp_path / "train.json"))
    assert root_folder(str(tmp_path / "train.json"), file_allowed=True) == tmp_path / "train.json"
