"""Images of one class per folder: torchvision's ImageFolder as the reference, divided roots, and errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.data.datasets.image_folder import ImageFolder
from densevit.errors import DataError


def pairs(dataset: ImageFolder) -> list[tuple[str, int]]:
    targets = [dataset[i]["targets"] for i in range(len(dataset))]
    return [(target["image_id"], int(target["image_class"])) for target in targets]


def test_equals_torchvision(tmp_path, write):
    from torchvision.datasets import ImageFolder as Reference

    for name in ("dog/b.png", "dog/a.jpg", "cat/deep/c.png", "Zebra/z.png", "cat/d.webp"):
        write(f"train/{name}")
    write("val/dog/a.jpg")
    reference = Reference(str(tmp_path / "train"))
    dataset = ImageFolder("train", root=str(tmp_path))
    assert [c.name for c in dataset.classes["classification"]] == reference.classes == ["Zebra", "cat", "dog"]
    expected = [(Path(path).relative_to(tmp_path).as_posix(), label) for path, label in reference.samples]
    assert sorted(pairs(dataset)) == sorted(expected)
    target = dataset[0]["targets"]["image_class"]
    assert target.shape == () and target.dtype == torch.int64
    assert dataset.sizes().tolist() == [[3, 4]] * 5 and dataset.image_name(0) == "train/Zebra/z.png"
    assert dataset.image_classes().tolist() == [[i, label] for i, (_, label) in enumerate(pairs(dataset))]
    assert ImageFolder.recognise(tmp_path) == {}


def test_classes_are_those_of_the_training_split(tmp_path, write):
    """A class without images in val does not shift the indices, as it does in torchvision."""
    for name in ("train/a/1.png", "train/b/1.png", "train/c/1.png", "valid/c/2.png"):
        write(name)
    val = ImageFolder("val", root=str(tmp_path))
    assert pairs(val) == [("valid/c/2.png", 2)] and len(val.classes["classification"]) == 3
    with pytest.raises(DataError, match=r"valid has 1 folders that the training split does not have: new\."):
        write("valid/new/2.png")
        ImageFolder("val", root=str(tmp_path))


def scene(seed: int, mode: str = "RGB") -> Image.Image:
    """Noise, as of a photograph."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (40, 48, len(mode)), np.uint8).squeeze(), mode)


def few_colours(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).choice([0, 90, 200], (40, 48, 3)).astype(np.uint8))


def depth(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 9000, (40, 48), np.uint16))


@pytest.mark.parametrize(
    "folders", [("image", "label"), ("img", "ann"), ("JPEGImages", "SegmentationClass"), ("y", "x")]
)
@pytest.mark.parametrize(
    ("image", "label", "data_set"),
    [
        (scene, lambda seed: few_colours(seed).convert("P"), "label_maps"),
        (scene, few_colours, "label_maps"),
        (lambda seed: scene(seed, "L"), lambda seed: few_colours(seed).convert("L"), "label_maps"),
        (scene, depth, "depth"),
    ],
    ids=["indexed", "colours", "grey", "depth"],
)
def test_folders_of_images_and_their_maps_are_no_classes(folders, image, label, data_set, tmp_path, write):
    for n in range(10):
        for folder, drawn in zip(folders, (image, label), strict=True):
            drawn(n).save(write(f"train/{folder}/{n}.png"))
    fix = rf"data\.name={data_set} data\.images='{{split}}/{folders[0]}' data\.labels='{{split}}/{folders[1]}'"
    with pytest.raises(
        DataError, match=f"train/{folders[1]} holds maps of the images in .*train/{folders[0]}, .*{fix}"
    ):
        ImageFolder("train", root=str(tmp_path))
    assert ImageFolder.recognise(tmp_path) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (scene, lambda seed: scene(seed + 100)),  # numbered images of two classes, of one size
        (few_colours, lambda seed: few_colours(seed + 100)),
        (scene, lambda seed: few_colours(seed).resize((30, 30))),
        (lambda seed: scene(seed, "L"), lambda seed: scene(seed + 100, "L")),
    ],
    ids=["photographs", "drawings", "of other sizes", "grey"],
)
def test_classes_may_have_equal_file_names(first, second, tmp_path, write):
    for n in range(10):
        first(n).save(write(f"train/a/{n}.png"))
        second(n).save(write(f"train/b/{n}.png"))
    assert ImageFolder.recognise(tmp_path) == {}
    assert sum(len(ImageFolder(split, root=str(tmp_path))) for split in ("train", "val")) == 20


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["train/a/1.png"], {}, "found only a"),
        (["train/a/1.png", "train/b/1.png", "train/2.png", "val/a/1.png"], {}, r"2\.png is in no folder of a class"),
        (["train/a/x.txt", "train/b/x.txt", "val/a/x.txt"], {}, r"train has the folders a, b, but no images \(\.jpg"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png"], {"val_share": 0.2}, "has a val split"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png"], {"limit": 0}, r"data\.limit is 0"),
        (["a/1.png", "b/1.png"], {"images": "nowhere"}, "There is no folder .*nowhere"),
    ],
)
def test_errors_name_the_folder(tmp_path, write, files, options, message):
    for name in files:
        write(name.replace(".txt", ".png")).rename(tmp_path / name)
    with pytest.raises(DataError, match=message):
        ImageFolder("train", root=str(tmp_path), **options)
