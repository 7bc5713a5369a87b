"""Images with label files: layouts, encodings, presets, and invalid files, each found at startup."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from densevit.data.datasets.label_maps import PRESETS, LabelMaps, Preset
from densevit.errors import DataError
from densevit.interfaces import IGNORE, Class
from densevit.registry import options

REAL = Path(os.environ.get("DENSEVIT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
LABEL = np.array([[0, 0, 1, 1], [2, 2, 1, 255], [2, 0, 0, 1]], np.uint8)  # 3 high, 4 wide
NAMES = ["road", "tree", "car"]

Write = Callable[..., None]


@pytest.fixture
def write_image(tmp_path: Path) -> Write:
    def write_image(path: str, size: tuple[int, int] = (4, 3), **options: Any) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path.replace("train", "val")).parent.mkdir(parents=True, exist_ok=True)  # train is not divided
        Image.new("RGB", size, (200, 10, 10)).save(file, **options)

    return write_image


@pytest.fixture
def label(tmp_path: Path) -> Write:
    """Writes a grey (H, W) or RGB (H, W, 3) label; an indexed one with its own palette."""

    def label(path: str, values: np.ndarray = LABEL, indexed: bool = False) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path.replace("train", "val")).parent.mkdir(parents=True, exist_ok=True)  # train is not divided
        written = Image.fromarray(values)
        if indexed:
            written.putpalette(list(range(255, -1, -1)) * 3)
        written.save(file)

    return label


@pytest.fixture
def pairs(write_image: Write, label: Write) -> Callable[..., None]:
    """Two pairs in images/train and labels/train."""

    def pairs(values: np.ndarray = LABEL, indexed: bool = False) -> None:
        for name in ("b", "a"):
            write_image(f"images/train/{name}.jpg")
            label(f"labels/train/{name}.png", values, indexed)

    return pairs


def semantic(dataset: LabelMaps, index: int = 0) -> list[list[int]]:
    found = dataset[index]["targets"]["semantic"]
    assert found.dtype == torch.uint8
    return found.tolist()


# ---- samples ----


def test_samples_classes_and_sizes(tmp_path: Path, pairs: Write) -> None:
    pairs()
    dataset = LabelMaps("train", root=str(tmp_path), classes=["road", "tree", {"name": "car", "color": [1, 2, 3]}])
    assert len(dataset) == 2 and dataset.provides == ("semantic",)
    assert dataset.sizes().tolist() == [[3, 4]] * 2
    assert [(c.name, c.file_id) for c in dataset.classes["segmentation"]] == [("road", 0), ("tree", 1), ("car", 2)]
    assert dataset.classes["segmentation"][2].color == (1, 2, 3)
    sample = dataset[0]
    assert set(sample["targets"]) == {"image_id", "semantic"}
    assert sample["targets"]["image_id"] == "a" and dataset[1]["targets"]["image_id"] == "b"
    assert sample["image"].shape == (3, 3, 4) and sample["image"].dtype == torch.uint8
    assert semantic(dataset) == LABEL.tolist()


@pytest.mark.parametrize("indexed", [False, True])
def test_indexed_labels_match_grey_labels(indexed: bool, tmp_path: Path, pairs: Write) -> None:
    pairs(indexed=indexed)
    assert semantic(LabelMaps("train", root=str(tmp_path), classes=NAMES)) == LABEL.tolist()


def test_16_bit_labels_with_many_to_one_id_map(tmp_path: Path, pairs: Write) -> None:
    deep = np.array([[1000, 7, 0, 9]] * 3, np.uint16)
    pairs(deep)
    classes = [{"name": "road", "ids": [7, 9]}, {"name": "tree", "id": 1000}]
    dataset = LabelMaps("train", root=str(tmp_path), classes=classes, ignore_index=0)
    assert [c.file_id for c in dataset.classes["segmentation"]] == [7, 1000]
    assert semantic(dataset) == [[1, 0, IGNORE, 0]] * 3


def test_several_values_are_ignored(tmp_path: Path, pairs: Write) -> None:
    pairs()
    dataset = LabelMaps("train", root=str(tmp_path), classes=[{"name": "tree", "id": 1}], ignore_index=[0, 2, 255])
    assert semantic(dataset) == [[255, 255, 0, 0], [255, 255, 0, 255], [255, 255, 255, 0]]


def test_reduce_zero_label_ignores_0_and_counts_from_1(tmp_path: Path, pairs: Write) -> None:
    pairs()
    dataset = LabelMaps("train", root=str(tmp_path), classes=["tree", "car"], reduce_zero_label=True)
    assert [c.file_id for c in dataset.classes["segmentation"]] == [1, 2]
    assert semantic(dataset) == [[255, 255, 0, 0], [1, 1, 0, 255], [1, 255, 255, 0]]


def test_255_may_be_a_class(tmp_path: Path, pairs: Write) -> None:
    pairs(np.where(LABEL == 1, 255, 0).astype(np.uint8))
    dataset = LabelMaps("train", root=str(tmp_path), classes=["no", {"name": "yes", "id": 255}])
    assert semantic(dataset) == (LABEL == 1).astype(int).tolist()


def test_several_colours_may_map_to_one_class(tmp_path: Path, pairs: Write) -> None:
    palette = np.array([[128, 64, 128], [0, 0, 1], [1, 0, 0]], np.uint8)
    pairs(np.where((LABEL == 255)[..., None], [9, 9, 9], palette[LABEL % 255]).astype(np.uint8))
    classes = [{"name": "road", "color": [128, 64, 128]}, {"name": "rest", "colors": [[0, 0, 1], [1, 0, 0]]}]
    dataset = LabelMaps("train", root=str(tmp_path), classes=classes, ignore_colors=[(9, 9, 9)])
    assert semantic(dataset) == [[0, 0, 1, 1], [1, 1, 1, 255], [1, 0, 0, 1]]
    assert dataset.classes["segmentation"][1].color == (0, 0, 1)


def test_grey_labels_in_rgb_files_are_read_as_grey(tmp_path: Path, pairs: Write) -> None:
    pairs(np.repeat(LABEL[..., None], 3, axis=2))
    assert semantic(LabelMaps("train", root=str(tmp_path), classes=NAMES)) == LABEL.tolist()


def test_limit_selects_the_first_images(tmp_path: Path, pairs: Write) -> None:
    pairs()
    dataset = LabelMaps("train", root=str(tmp_path), classes=NAMES, limit=1)
    assert len(dataset) == 1 and dataset[0]["targets"]["image_id"] == "a"


@pytest.mark.parametrize("upright", [True, False])
def test_labels_are_aligned_with_exif_orientation(
    upright: bool, tmp_path: Path, write_image: Write, label: Write
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    write_image("images/train/a.jpg", exif=exif)
    label("labels/train/a.png", LABEL.T.copy() if upright else LABEL)
    dataset = LabelMaps("train", root=str(tmp_path), classes=NAMES)
    size = (4, 3) if upright else (3, 4)
    assert dataset.sizes().tolist() == [list(size)]
    assert dataset[0]["image"].shape[1:] == dataset[0]["targets"]["semantic"].shape == size


def test_paths_are_stored_in_arrays_and_pickle_small(tmp_path: Path, pairs: Write) -> None:
    """Python objects have reference counts, so that each loader process would copy their memory."""
    pairs(np.zeros((3, 4, 3), np.uint8))
    dataset = LabelMaps("train", root=str(tmp_path), classes=[{"name": "all", "color": [0, 0, 0]}])
    assert all(value.dtype != object for value in vars(dataset._pairs).values())
    assert len(pickle.dumps(dataset)) < 200_000, "the table of 2 ** 24 colours is not part of it"
    assert semantic(pickle.loads(pickle.dumps(dataset))) == [[0] * 4] * 3


# ---- pairing of images and labels ----


@pytest.mark.parametrize("folder", ["val", "valid", "validation"])
def test_splits_are_found_under_their_usual_names(
    folder: str, tmp_path: Path, write_image: Write, label: Write
) -> None:
    write_image(f"images/{folder}/deep/a.JPG", format="JPEG")
    write_image(f"images/{folder}/._a.jpg")  # created by macOS
    label(f"labels/{folder}/deep/a.png")
    dataset = LabelMaps("val", root=str(tmp_path), classes=NAMES)
    assert dataset[0]["targets"]["image_id"] == "deep/a"


def test_split_options_name_other_folders(tmp_path: Path, write_image: Write, label: Write) -> None:
    write_image("part2/images/a.png")
    label("part2/semantic/a.png")
    where = {"images": "{split}/images", "labels": "{split}/semantic"}
    dataset = LabelMaps("val", root=str(tmp_path), classes=NAMES, splits={"val": "part2"}, **where)
    assert len(dataset) == 1


def test_segnets_layout_of_camvid(tmp_path: Path, write_image: Write, label: Write) -> None:
    write_image("train/a.png")
    label("trainannot/a.png", LABEL % 255)
    where = {"images": "./{split}", "labels": "./{split}annot"}
    assert len(LabelMaps("train", root=str(tmp_path), preset="camvid", **where)) == 1


def test_patterns_pair_files_by_wildcard_text(tmp_path: Path, write_image: Write, label: Write) -> None:
    for name in ("x", "y"):
        write_image(f"left/train/{name}/[1] {name}_left.png")
        label(f"fine/train/{name}/[1] {name}_fine_ids.png")
        label(f"fine/train/{name}/[1] {name}_fine_other.png")
    write_image("left/val/v/v_left.png")
    label("fine/val/v/v_fine_ids.png")
    where = {"images": "left/{split}/*/*_left.png", "labels": "fine/{split}/*/*_fine_ids.png"}
    dataset = LabelMaps("train", root=str(tmp_path), classes=NAMES, **where)
    assert [dataset[i]["targets"]["image_id"] for i in (0, 1)] == ["x/[1] x", "y/[1] y"]


@pytest.mark.parametrize(
    "text",
    [
        "b\n\nc d\n",
        "b.jpg\nc d.jpg\n",
        "images/b.jpg labels/b.png\nimages/c d.jpg\tlabels/c d.png\n",
        "/images/b.jpg /labels/b.png\n/images/c d.jpg\t/labels/c d.png",
    ],
)
def test_list_files_name_images_or_pairs(text: str, tmp_path: Path, write_image: Write, label: Write) -> None:
    for name in ("a", "b", "c d", "unlabelled"):
        write_image(f"images/{name}.jpg")
    for name in ("a", "b", "c d"):
        label(f"labels/{name}.png")
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "val.txt").touch()  # so that train is not divided
    where = {"images": "images", "labels": "labels", "list_file": "{split}.txt"}
    dataset = LabelMaps("train", root=str(tmp_path), classes=NAMES, **where)
    assert [Path(dataset.path(i)).name for i in range(len(dataset))] == ["b.jpg", "c d.jpg"]
    assert [Path(dataset.label_path(i)).name for i in range(len(dataset))] == ["b.png", "c d.png"]


# ---- invalid data ----


def test_unknown_value_error_names_file_pixels_and_fix(tmp_path: Path, pairs: Write, label: Write) -> None:
    pairs()
    wrong = LABEL.copy()
    wrong[0, :3], wrong[2, 0] = 17, 200
    label("labels/train/b.png", wrong)
    with pytest.raises(DataError) as error:
        LabelMaps("train", root=str(tmp_path), classes=NAMES)
    message = str(error.value)
    assert (
        f"{tmp_path}/labels/train/b.png has values that no class has: 17 in 3 pixels (25.0%), 200 in 1 pixel (8.3%)."
        in message
    )
    assert "Known: 0 to 2; ignored: 255." in message
    assert "data.classes" in message and "data.ignore_index" in message


def test_classes_counted_from_1_suggest_reduce_zero_label(tmp_path: Path, pairs: Write) -> None:
    pairs(np.where(LABEL == 255, 0, LABEL + 1).astype(np.uint8))
    with pytest.raises(DataError, match=r"3 in 3 pixels.*data\.reduce_zero_label=true"):
        LabelMaps("train", root=str(tmp_path), classes=NAMES)


def test_unknown_colour_is_named(tmp_path: Path, pairs: Write) -> None:
    pairs(np.full((3, 4, 3), (5, 6, 7), np.uint8))
    with pytest.raises(
        DataError, match=r"a\.png has colours that no class has: \(5, 6, 7\) in 12 pixels.*none for sky"
    ):
        LabelMaps("train", root=str(tmp_path), classes=[{"name": "road", "color": [1, 1, 1]}, "sky"])


def test_coloured_labels_require_class_colours(tmp_path: Path, pairs: Write) -> None:
    pairs(np.full((3, 4, 3), (5, 6, 7), np.uint8))
    with pytest.raises(DataError, match=r"a\.png is coded in colours, but data\.classes has none"):
        LabelMaps("train", root=str(tmp_path), classes=NAMES)


def test_image_and_label_sizes_must_match(tmp_path: Path, pairs: Write, write_image: Write) -> None:
    pairs()
    write_image("images/train/b.jpg", size=(8, 6))
    with pytest.raises(DataError, match=r"b\.jpg has 8 x 6 pixels, but its label .*b\.png has 4 x 3"):
        LabelMaps("train", root=str(tmp_path), classes=NAMES)


def test_unpaired_images_and_labels_raise(tmp_path: Path, pairs: Write, write_image: Write) -> None:
    pairs()
    write_image("images/train/lone.jpg")
    with pytest.raises(DataError, match=r"1 of 3 images have no label:\n  images/train/lone\.jpg\n.*labels/train/lone"):
        LabelMaps("train", root=str(tmp_path), classes=NAMES)
    (tmp_path / "images/train/lone.jpg").unlink()
    (tmp_path / "images/train/a.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 2 labels have no image:\n  labels/train/a\.png"):
        LabelMaps("train", root=str(tmp_path), classes=NAMES)


def test_duplicate_image_names_raise(tmp_path: Path, pairs: Write, write_image: Write) -> None:
    pairs()
    write_image("images/train/a.png")
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png have the same name"):
        LabelMaps("train", root=str(tmp_path), classes=NAMES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nz\n", r"names 2 images; .*2 files do not exist.*\n  images/train/z\n  labels/train/z"),
        ("a\nb\na\n", r"train\.txt, line 3: a occurs already in line 1"),
        ("images/train/a.jpg labels/train/q.png", r"1 files do not exist.*\n  labels/train/q\.png"),
        ("\n", r"is empty"),
        (None, r"cannot be read"),
    ],
)
def test_invalid_list_files_raise(text: str | None, message: str, tmp_path: Path, pairs: Write) -> None:
    pairs()
    if text is not None:
        (tmp_path / "train.txt").write_text(text)
    with pytest.raises(DataError, match=f"(?s){message}"):
        LabelMaps("train", root=str(tmp_path), classes=NAMES, list_file="train.txt")


def test_corrupt_image_or_label_is_found_at_startup(tmp_path: Path, pairs: Write) -> None:
    pairs(np.random.default_rng(0).integers(0, 3, (3, 4), np.uint8))
    file = tmp_path / "labels/train/b.png"
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    with pytest.raises(DataError, match=r"b\.png cannot be read"):
        LabelMaps("train", root=str(tmp_path), classes=NAMES)
    file.write_bytes(whole)
    (tmp_path / "images/train/a.jpg").write_bytes((tmp_path / "images/train/a.jpg").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.jpg"):
        LabelMaps("train", root=str(tmp_path), classes=NAMES)


def test_file_changed_after_scanning_raises(tmp_path: Path, pairs: Write, label: Write) -> None:
    pairs()
    dataset = LabelMaps("train", root=str(tmp_path), classes=NAMES)
    label("labels/train/a.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(DataError, match=r"a\.png has changed since the start"):
        dataset[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": None}, r"data\.classes is missing"),
        ({"classes": []}, r"0 classes; expected 1 to 255"),
        ({"classes": [str(i) for i in range(256)]}, r"256 classes"),
        ({"classes": ["a", "a"]}, r"the name 'a' occurs twice"),
        ({"classes": ["a", {"name": "b", "id": 0}]}, r"the id 0 occurs twice"),
        ({"classes": [{"name": "a", "colour": [1, 2, 3]}]}, r"data\.classes\[0\]\.colour .*'color'"),
        ({"classes": [7]}, r"data\.classes\[0\] is 7; expected a name"),
        ({"classes": [{"id": 3}]}, r"data\.classes\[0\] has the name None"),
        ({"classes": [{"name": "a", "id": -1}]}, r"data\.classes\[0\] \(a\): id is -1"),
        ({"classes": [{"name": "a", "id": 1, "ids": [2]}]}, r"both `id` and `ids`"),
        ({"classes": [{"name": "a", "color": [1, 2]}]}, r"color is \[1, 2\]; expected \[red, green, blue\]"),
        ({"ignore_index": 1}, r"The label value 1 is both that of a class"),
        ({"ignore_index": -1}, r"data\.ignore_index is -1"),
        (
            {"classes": [{"name": "a", "id": 0}], "reduce_zero_label": True},
            r"value 0 is both .*reduce_zero_label ignores",
        ),
        ({"limit": 0}, r"data\.limit is 0"),
        ({"root": None}, r"data\.root is missing"),
        ({"root": "nowhere"}, r"there is no folder nowhere"),
        ({"images": "photos"}, r"There is no folder .*photos\. Name the images with data\.images"),
        ({"labels": "*.gif"}, r"data\.labels: .* holds no files"),
    ],
)
def test_invalid_options_raise(given: dict[str, Any], message: str, tmp_path: Path, pairs: Write) -> None:
    pairs()
    with pytest.raises(DataError, match=message):
        LabelMaps("train", **({"root": str(tmp_path), "classes": NAMES} | given))


def test_duplicate_class_colours_only_affect_coloured_labels(tmp_path: Path, pairs: Write) -> None:
    classes = [{"name": name, "color": [1, 1, 1]} for name in NAMES]
    pairs()
    assert len(LabelMaps("train", root=str(tmp_path), classes=classes)) == 2
    pairs(np.ones((3, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"the color \(1, 1, 1\) occurs twice"):
        LabelMaps("train", root=str(tmp_path), classes=classes)


# ---- presets ----

MADE = {  # preset: (image, label, list file, file values, their classes)
    "ade20k": ("images/training/a.jpg", "annotations/training/a.png", None, [0, 1, 13, 150], [255, 0, 12, 149]),
    "camvid": ("images/train/a.jpg", "labels/train/a.png", None, [0, 3, 10, 11], [0, 3, 10, 255]),
    "cityscapes": (
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
        "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png",
        None,
        [0, 7, 26, 33],
        [255, 0, 13, 18],
    ),
    "cityscapes_train_ids": (
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
        "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png",
        None,
        [255, 0, 13, 18],
        [255, 0, 13, 18],
    ),
    "coco_stuff": ("images/train2017/1.jpg", "annotations/train2017/1.png", None, [0, 89, 91, 181], [0, 79, 80, 170]),
    "coco_stuff_train_ids": (
        "images/train2017/1.jpg",
        "annotations/train2017/1_labelTrainIds.png",
        None,
        [255, 79, 80, 170],
        [255, 79, 80, 170],
    ),
    "pascal_context": (
        "JPEGImages/2008_000002.jpg",
        "SegmentationClassContext/2008_000002.png",
        "ImageSets/SegmentationContext/train.txt",
        [0, 1, 37, 59],
        [0, 1, 37, 59],
    ),
    "pascal_context_59": (
        "JPEGImages/2008_000002.jpg",
        "SegmentationClassContext/2008_000002.png",
        "ImageSets/SegmentationContext/train.txt",
        [0, 1, 37, 59],
        [255, 0, 36, 58],
    ),
    "voc": (
        "JPEGImages/2007_000032.jpg",
        "SegmentationClass/2007_000032.png",
        "ImageSets/Segmentation/train.txt",
        [0, 1, 20, 255],
        [0, 1, 20, 255],
    ),
}


def classes_of(preset: str, folder: Path, write_image: Write, label: Write) -> tuple[Class, ...]:
    """The classes of a preset; checks that its layout is read, with one generated image."""
    image, file, listed, values, indices = MADE[preset]
    write_image(image)
    label(file, np.array([values] * 3, np.uint8), indexed=preset == "voc")
    if listed:
        (folder / listed).parent.mkdir(parents=True)
        (folder / listed).write_text(f"{Path(image).stem}\n")
    dataset = LabelMaps("train", root=str(folder), preset=preset)  # type: ignore[arg-type]
    assert semantic(dataset) == [indices] * 3
    return dataset.classes["segmentation"]


@pytest.mark.parametrize("preset", sorted(MADE))
def test_each_preset_reads_its_official_layout(preset: str, tmp_path: Path, write_image: Write, label: Write) -> None:
    classes = classes_of(preset, tmp_path, write_image, label)
    counts = {"ade20k": 150, "camvid": 11, "cityscapes": 19, "coco_stuff": 171, "voc": 21}
    counts |= {"pascal_context": 60, "pascal_context_59": 59}
    assert len(classes) == counts[preset.removesuffix("_train_ids")]


def test_presets_are_yaml_files_of_options() -> None:
    assert {file.stem for file in PRESETS.glob("*.yaml")} == set(MADE) == set(Preset.__args__)  # type: ignore[attr-defined]
    for file in PRESETS.glob("*.yaml"):
        given = yaml.safe_load(file.read_text())
        given.pop("base", None)
        options.check(LabelMaps, ("split",), "masks", given, "data")


def test_cityscapes_matches_torchvision(tmp_path: Path, write_image: Write, label: Write) -> None:
    from torchvision.datasets import Cityscapes

    classes = classes_of("cityscapes", tmp_path, write_image, label)
    trained = sorted((c for c in Cityscapes.classes if not c.ignore_in_eval), key=lambda c: c.train_id)
    assert [(c.name, c.file_id, c.color) for c in classes] == [(c.name, c.id, c.color) for c in trained]
    given = yaml.safe_load((PRESETS / "cityscapes.yaml").read_text())
    assert set(given["ignore_index"]) - {255} == {c.id for c in Cityscapes.classes if c.ignore_in_eval and c.id >= 0}


def test_voc_matches_torchvision_and_the_devkit_colours(tmp_path: Path, write_image: Write, label: Write) -> None:
    from torchvision.models._meta import _VOC_CATEGORIES

    classes = classes_of("voc", tmp_path, write_image, label)
    assert [c.name for c in classes] == ["background", *_VOC_CATEGORIES[1:]]
    for index, one in enumerate(classes):  # VOCcolormap.m: the bits of the index, distributed over red, green and blue
        bits = [index >> place & 1 for place in range(6)]
        assert one.color == tuple(bits[c] * 128 + bits[c + 3] * 64 for c in range(3))


def test_pascal_context_classes_are_sorted_and_include_voc(tmp_path: Path, write_image: Write, label: Write) -> None:
    from torchvision.models._meta import _VOC_CATEGORIES

    whole = classes_of("pascal_context", tmp_path, write_image, label)
    fewer = LabelMaps("train", root=str(tmp_path), preset="pascal_context_59").classes["segmentation"]
    assert [(c.name, c.file_id) for c in whole[1:]] == [(c.name, c.file_id) for c in fewer]
    names = [c.name for c in fewer]
    assert names == sorted(names) and [c.file_id for c in whole] == list(range(60)) and whole[0].name == "background"
    assert set(_VOC_CATEGORIES[1:]) - {"diningtable"} < set(names)
    assert (names[0], names[36], names[46], names[58]) == ("aeroplane", "person", "sky", "wood")


def test_coco_stuff_lists_things_before_stuff(tmp_path: Path, write_image: Write, label: Write) -> None:
    from torchvision.models._meta import _COCO_CATEGORIES

    classes = classes_of("coco_stuff", tmp_path, write_image, label)
    names = {c.file_id + 1: c.name for c in classes}
    of_torchvision = {i: name for i, name in enumerate(_COCO_CATEGORIES) if i > 0 and name != "N/A"}
    assert {i: name for i, name in names.items() if i < 91} == of_torchvision
    assert sorted(i for i in names if i > 90) == list(range(92, 183))
    assert (names[92], names[106], names[149], names[169], names[182]) == ("banner", "clouds", "road", "tree", "wood")


def test_ade20k_and_camvid_have_their_known_entries(tmp_path: Path, write_image: Write, label: Write) -> None:
    ade = {c.file_id: (c.name, c.color) for c in classes_of("ade20k", tmp_path, write_image, label)}
    assert ade[1] == ("wall", (120, 120, 120)) and ade[150] == ("flag", (92, 0, 255))
    assert ade[13] == ("person", (150, 5, 61)) and ade[21] == ("car", (0, 102, 200)) and ade[81][0] == "bus"
    camvid = classes_of("camvid", tmp_path, write_image, label)
    names = "sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist"
    assert ", ".join(c.name for c in camvid) == names


def test_options_override_the_preset(tmp_path: Path, write_image: Write, label: Write) -> None:
    write_image("JPEGImages/a.jpg")
    label("SegmentationClassAug/a.png")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/trainaug.txt").write_text("/JPEGImages/a.jpg /SegmentationClassAug/a.png")
    where = {"labels": "SegmentationClassAug", "splits": {"train": "trainaug"}}
    assert len(LabelMaps("train", root=str(tmp_path), preset="voc", **where)) == 1


def test_unknown_preset_raises(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.preset: there is no 'ade'\. Presets: ade20k, camvid"):
        LabelMaps("train", root=str(tmp_path), preset="ade")  # type: ignore[arg-type]


# ---- real data sets ----


@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
def test_camvid_loads_with_its_preset(split: str, count: int) -> None:
    root = REAL / "camvid"
    if not root.is_dir():
        pytest.skip("needs the folder camvid of real images; set DENSEVIT_DATA to where it lies")
    dataset = LabelMaps(split, root=str(root), preset="camvid")
    assert len(dataset) == count and set(map(tuple, dataset.sizes().tolist())) == {(360, 480)}
    for index in range(0, count, 25):
        with Image.open(dataset.label_path(index)) as file:
            stored = np.asarray(file)
        assert semantic(dataset, index) == np.where(stored == 11, 255, stored).tolist()


@pytest.mark.parametrize(
    "line", ["../secret.jpg\tlabels/a.png", "images/a.jpg\t../secret.png", "{root}/../secret.jpg\tlabels/a.png"]
)
def test_list_files_name_files_outside_of_root_only_if_allowed(
    line: str, tmp_path: Path, write_image: Write, label: Write
) -> None:
    root = tmp_path / "set"
    for folder in (".", "set/images"):
        write_image(f"{folder}/{'a' if folder != '.' else 'secret'}.jpg")
    label("secret.png")
    label("set/labels/a.png")
    (root / "list.txt").write_text(line.format(root=root) + "\n")
    where: Any = {"root": str(root), "classes": NAMES, "images": "images", "labels": "labels", "list_file": "list.txt"}
    with pytest.raises(DataError, match=r"list\.txt, line 1: .*secret.* is outside of .*set\. .*data\.outside_paths"):
        LabelMaps("train", **where)
    assert semantic(LabelMaps("train", outside_paths=True, **where)) == LABEL.tolist()


def test_a_list_may_name_files_in_folders_outside_of_root_that_the_config_names(
    tmp_path: Path, write_image: Write, label: Write
) -> None:
    write_image("images/a.jpg")
    label("labels/a.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text("a.jpg a.png\n")
    folders: Any = {"images": "../images", "labels": "../labels", "list_file": "list.txt"}
    found = LabelMaps("train", root=str(tmp_path / "lists"), classes=NAMES, **folders)
    assert semantic(found) == LABEL.tolist()


def test_class_names_that_no_file_can_hold_raise(tmp_path: Path, pairs: Write) -> None:
    pairs()
    with pytest.raises(DataError, match=r"The class '\\udcff' \(id 1\) has half of a surrogate pair in its name"):
        LabelMaps("train", root=str(tmp_path), classes=["road", "\udcff", "car"])


# ---- classes that are colours ----

ROAD, TREE, GREY = (128, 64, 128), (0, 128, 0), (90, 90, 90)


def colored(root: Path, layout: tuple[str, str] = ("images/train", "labels/train"), indexed: bool = False) -> Path:
    """Four images with label maps of a half road and a half tree."""
    values = np.repeat(np.array([0, 1], np.uint8), 8)[None].repeat(12, axis=0)
    rng = np.random.default_rng(0)
    for folder in layout:
        (root / folder).mkdir(parents=True)
    for k in range(4):
        pixels = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / layout[0] / f"{k}.png")
        written = Image.fromarray(values if indexed else np.array([ROAD, TREE], np.uint8)[values])
        if indexed:
            written.putpalette([*ROAD, *TREE] + [0] * 762)
        written.save(root / layout[1] / f"{k}.png")
    return root


def test_colours_without_classes_are_listed_to_paste(tmp_path: Path) -> None:
    root = colored(tmp_path)
    with pytest.raises(DataError) as caught:
        LabelMaps("train", root=str(root))
    text = str(caught.value)
    assert "Found in 4 label maps" in text
    pasted = yaml.safe_load(text[text.index("classes:\n") :])["classes"]
    assert sorted(tuple(one["color"]) for one in pasted) == [TREE, ROAD] and text.count("# 50.00%") == 2
    assert len(LabelMaps("train", root=str(root), classes=pasted)) == 3
    assert LabelMaps.recognise(root) == {"classes": pasted}


def test_colour_that_no_class_has_is_named_with_its_file_and_pixels(tmp_path: Path) -> None:
    root = colored(tmp_path)
    classes = [{"name": "road", "color": list(ROAD)}]
    with pytest.raises(
        DataError, match=r"labels/train/\d\.png has colours .* \(0, 128, 0\) in 96 pixels \(50\.0%\)\. Known: 1 col"
    ):
        LabelMaps("train", root=str(root), classes=classes)


@pytest.mark.parametrize("indexed", [False, True])
def test_segmentation_masks_of_cvat_are_read_by_their_labelmap(indexed: bool, tmp_path: Path) -> None:
    root = colored(tmp_path, ("JPEGImages", "SegmentationClass"), indexed)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("0\n1\n2\n3\n")
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", "tree:0,128,0::", "road:128,64,128::"]
    (root / "labelmap.txt").write_text("\n".join(lines))
    assert LabelMaps.recognise(root) == {}
    train, val = (LabelMaps(split, root=str(root)) for split in ("train", "val"))
    assert (len(train), len(val)) == (3, 1)
    assert [one.name for one in train.classes["segmentation"]] == ["background", "tree", "road"]
    assert semantic(val)[0] == [2] * 8 + [1] * 8
    for name in ("train", "val"):
        (lists / f"{name}.txt").write_text("0\n" if name == "val" else "1\n2\n")
    assert [len(LabelMaps(split, root=str(root))) for split in ("train", "val")] == [2, 1]
    (root / "labelmap.txt").write_text("tree:0,128\n")
    with pytest.raises(DataError, match=r"labelmap\.txt, line 1: 'tree:0,128'; expected name:red,green,blue::"):
        LabelMaps("train", root=str(root))


def test_grey_labels_beside_a_labelmap_are_an_error(tmp_path: Path, pairs: Write) -> None:
    pairs()
    (tmp_path / "labelmap.txt").write_text("tree:0,128,0::\n")
    with pytest.raises(DataError, match=r"a\.png has grey values, but .*labelmap\.txt has colours\. Fix"):
        LabelMaps("train", root=str(tmp_path))
    assert len(LabelMaps("train", root=str(tmp_path), classes=NAMES)) == 2


def test_only_a_test_split_names_the_key_to_evaluate_on_it(tmp_path: Path) -> None:
    root = colored(tmp_path, ("images/test", "labels/test"))
    classes = [{"name": "road", "color": list(ROAD)}, {"name": "tree", "color": list(TREE)}]
    with pytest.raises(DataError, match=r"has no split 'val', only test\. Fix: .* data\.split=test\."):
        LabelMaps("val", root=str(root), classes=classes)
    assert len(LabelMaps("test", root=str(root), classes=classes)) == 4
