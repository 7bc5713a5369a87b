"""A walk over data sets without splits: train and val have no image in common, and are the same in all commands."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import densevit
from densevit import config as configs
from densevit.data.data_splits import DataSplits
from densevit.data.split_overlap import check_overlap
from densevit.interfaces import Dataset
from tests.data.undivided_sets import SETS, Undivided

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("own_cache")]
NUMBERS = range(40)


@pytest.fixture(params=SETS.values(), ids=SETS)
def form(request: pytest.FixtureRequest) -> Undivided:
    return request.param


def numbers(dataset: Dataset) -> list[int]:
    """The numbers of the images, by their files' names or ids."""
    names = (dataset.image_name(i) or str(dataset[i]["targets"]["image_id"]) for i in range(len(dataset)))
    return [int(Path(name).stem) for name in names]


def data_of(section: dict[str, Any]) -> DataSplits:
    return DataSplits(configs.section("data", section, "test"), 0, 8)


def parts(section: dict[str, Any]) -> dict[str, set[int]]:
    data = data_of(section)
    return {"train": {*numbers(data.train)}, "val": {*numbers(data.val)}}


def test_train_and_val_are_parts_by_content(form: Undivided, tmp_path: Path):
    form.write(tmp_path / "a", NUMBERS)
    section = form.section(tmp_path / "a")
    data = data_of(section)
    train, val = numbers(data.train), numbers(data.val)
    assert sorted(train + val) == [*NUMBERS] and 1 <= len(val) <= 20
    text = f"has no val split: of its 40 images, {len(train)} are for training and {len(val)} for validation"
    assert text in data.train.division and data.val.division == data.train.division
    check_overlap(data)
    options = {key: value for key, value in section.items() if key != "name"}
    with pytest.warns(UserWarning, match=text):
        assert numbers(densevit.create_dataset(form.name, **options)) == train
    assert numbers(densevit.create_dataset(form.name, "val", **options)) == val
    # A third of the images is removed, and others, and copies of some under other names, are added.
    form.write(tmp_path / "b", [*range(12, 60), *range(1020, 1030)])
    changed = parts(form.section(tmp_path / "b"))
    for split, expected in (("train", train), ("val", val)):
        assert changed[split] & {*NUMBERS} == {*expected} - {*range(12)}
        assert {n - 1000 for n in changed[split] if n >= 1000} == changed[split] & {*range(20, 30)}
    check_overlap(data_of(form.section(tmp_path / "b")))


def test_val_share_sets_the_share(form: Undivided, tmp_path: Path):
    form.write(tmp_path / "a", NUMBERS)
    sizes = [len(parts({**form.section(tmp_path / "a"), "val_share": share})["val"]) for share in (0.1, 0.5, 0.9)]
    assert sizes == sorted({*sizes}) and sizes[1] >= 8


@pytest.mark.parametrize("copy", ["link", "bytes"])
def test_a_file_in_both_splits_is_an_error(copy: str, form: Undivided, tmp_path: Path):
    form.write(tmp_path / "a", NUMBERS)
    write = shutil.copy if copy == "bytes" else os.symlink
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=write)
    data, other = data_of(form.section(tmp_path / "a")), data_of(form.section(tmp_path / "b"))
    data.use_split("val", other.train)
    if form.name == "shards":
        assert not data.train.image_files()  # the shards of train hold both parts
        return
    with pytest.raises(densevit.DataError, match=rf"{len(other.train)} of the {len(other.train)} images .*'val' are"):
        check_overlap(data)
    data.use_split("val", other.val)
    check_overlap(data)
    data = data_of({**form.section(tmp_path / "a"), "allow_overlap": True})
    data.use_split("val", other.train)
    check_overlap(data)
