"""Images without labels: splits by folder, and errors that name the file."""

import pickle

import pytest
import torch

from densevit.data.datasets.unlabelled_images import UnlabelledImages
from densevit.errors import DataError


def ids(dataset: UnlabelledImages) -> list[str]:
    return [dataset[i]["targets"]["image_id"] for i in range(len(dataset))]


def test_splits_are_the_folders_train_and_val(tmp_path, write):
    for name in ("train/b.png", "train/deep/er/a.JPG", "train/.hidden.png", "val/b.png", "other.png"):
        write(name)
    (tmp_path / "train" / "notes.txt").write_text("no image")
    train, val = (UnlabelledImages(split, root=str(tmp_path)) for split in ("train", "val"))
    assert ids(train) == ["train/b.png", "train/deep/er/a.JPG"] and ids(val) == ["val/b.png"]
    assert train.provides == () and train.classes == {}
    sample = train[0]
    assert sample["image"].dtype == torch.uint8 and sample["image"].shape == (3, 3, 4)
    assert sample["image"][:, 0, 0].tolist() == [1, 2, 3] and set(sample["targets"]) == {"image_id"}
    assert train.sizes().tolist() == [[3, 4], [3, 4]]
    assert train._paths.dtype.kind == "S" and ids(pickle.loads(pickle.dumps(train))) == ids(train)


@pytest.mark.parametrize(
    ("files", "split", "options", "expected"),
    [
        ((), "train", {}, r"contains no images \(\.jpg, "),
        (("val/a.png",), "train", {}, r"are val; there is no folder .*/train"),
        (("train/a.png",), "val", {}, r"has no val split, and its 1 images cannot be divided"),
        (("train/a.png", "val/a.png"), "val", {"val_share": 0.2}, r"the data set has a val split: .*/val\."),
        (("a.png",), "val", {"val_share": 1.0}, r"data\.val_share is 1"),
    ],
)
def test_missing_images_are_errors(files, split, options, expected, tmp_path, write):
    for name in files:
        write(name)
    with pytest.raises(DataError, match=expected):
        UnlabelledImages(split, root=str(tmp_path), **options)
