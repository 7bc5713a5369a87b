"""The tests of all data sets without splits, on those of this package."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from densevit import registry
from densevit.data.datasets.label_maps import LabelMaps
from densevit_workbench.interchange.shard_writer import write_shards
from tests.data import test_undivided_sets, undivided_sets
from tests.data.undivided_sets import SIDE, Undivided, images, label_maps

test_parts = test_undivided_sets.test_train_and_val_are_parts_by_content
test_shares = test_undivided_sets.test_val_share_sets_the_share
test_shared_files = test_undivided_sets.test_a_file_in_both_splits_is_an_error
pytestmark = pytest.mark.usefixtures("own_cache")
WITHOUT_FILES = {"labelme", "other_exports", "mix", "scenes"}  # two raise; a mix of others; rendered


def yolo(root: Path, numbers: Iterable[int]) -> None:
    images(root, numbers)
    (root / "labels").mkdir(exist_ok=True)
    for n in numbers:
        (root / "labels" / f"{n}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (root / "data.yaml").write_text("path: .\ntrain: images\nnames: [leaf]\n")


def voc(root: Path, numbers: Iterable[int]) -> None:
    images(root, numbers, "JPEGImages/{}.png")
    (root / "Annotations").mkdir(exist_ok=True)
    size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    for n in numbers:
        (root / "Annotations" / f"{n}.xml").write_text(
            f"<annotation><filename>{n}.png</filename>{size}<object><name>leaf</name>{box}</object></annotation>"
        )


def shards(root: Path, numbers: Iterable[int]) -> None:
    source = root.with_name(f"{root.name} source")
    label_maps(source, numbers)
    (source / "images").rename(source / "images all")
    (source / "labels").rename(source / "labels all")
    folders = {"images": "images {split}", "labels": "labels {split}", "splits": {"test": "all"}}
    dataset = LabelMaps("test", str(source), classes=["first", "second"], **folders)
    assert len([*write_shards(dataset, root / "train", 10_000)]) == len(list(numbers))


SETS = {
    "yolo": Undivided("yolo", yolo),
    "voc": Undivided("voc", voc),
    "shards of train": Undivided("shards", shards),
}


@pytest.fixture(params=SETS.values(), ids=SETS)
def form(request: pytest.FixtureRequest) -> Undivided:
    return request.param


def test_all_registered_data_sets_are_walked():
    forms = (*SETS.values(), *undivided_sets.SETS.values())
    assert {form.name for form in forms} | WITHOUT_FILES == {*registry.list_plugins("datasets")}
