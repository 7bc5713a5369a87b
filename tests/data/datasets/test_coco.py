"""COCO-format data: layouts, unusual but valid files, and invalid ones, each reported at startup."""

import contextlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from densevit.data.build import create_dataset
from densevit.data.datasets.coco import Coco
from densevit.data.datasets.coco_json import color_of
from densevit.data.datasets.mapped_classes import MappedClasses
from densevit.data.transforms.fixed import Fixed
from densevit.data.transforms.resizing import EvaluationTransform
from densevit.errors import DataError
from densevit.targets import RunLengthMasks

REAL = Path(os.environ.get("DENSEVIT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))

FOUR = [{"id": 5 * k, "file_name": f"{k}.jpg", "height": 30, "width": 40} for k in range(4)]

Write = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode


def document(**changes: Any) -> dict[str, Any]:
    """Three images, 40 wide and 30 high, with three boxes of two classes."""
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}, {"id": 1000, "name": "unused"}]
    images = [{"id": 5 * k, "file_name": f"{k}.jpg", "height": 30, "width": 40} for k in range(3)]
    annotations = [
        {"id": 11, "image_id": 5, "category_id": 90, "bbox": [1, 2, 10, 20], "area": 150.5, "iscrowd": 0},
        {"id": 12, "image_id": 0, "category_id": 7, "bbox": [0.5, 0.25, 30, 20.5]},
        {"id": 13, "image_id": 5, "category_id": 7, "bbox": [30, 20, 50, 50], "area": 100, "iscrowd": 1},
    ]
    return {"images": images, "annotations": annotations, "categories": categories} | changes


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(document)` writes the JSON and images under a root, and returns the root."""

    def write(content: Any = None, file: str = "train.json", folder: str = "train", root: str = "set") -> Path:
        content = document() if content is None else content
        base = tmp_path / root
        (base / file).parent.mkdir(parents=True, exist_ok=True)
        (base / file).write_text(content if isinstance(content, str) else json.dumps(content))
        if "train" in file and not list(base.glob("val*")):
            (base / "val.json").touch()  # so that train is not divided
        (base / folder).mkdir(parents=True, exist_ok=True)
        for image in content["images"] if isinstance(content, dict) else []:
            if isinstance(image, dict) and "file_name" in image:
                path = base / folder / image["file_name"]
                path.parent.mkdir(exist_ok=True, parents=True)
                color = (200, 10, 15 - image["id"] if image.get("id") in range(16) else 10)
                Image.new("RGB", (40, 30), color).save(path)
        return base

    return write


# ---- samples ----


def test_boxes_labels_areas_and_crowds_of_each_image(write: Write) -> None:
    dataset = Coco("train", root=str(write()))
    assert len(dataset) == 3
    assert dataset.sizes().tolist() == [[30, 40]] * 3
    assert dataset.provides == ("boxes", "labels")
    targets = [dataset[index]["targets"] for index in range(3)]
    assert [t["image_id"] for t in targets] == [0, 5, 10]
    assert targets[0]["boxes"].tolist() == [[0.5, 0.25, 30.5, 20.75]]
    assert targets[0]["area"].tolist() == [615.0], "without `area`, width times height"
    assert targets[1]["boxes"].tolist() == [[1, 2, 11, 22], [30, 20, 80, 70]], "as in the json"
    assert targets[1]["labels"].tolist() == [1, 0]
    assert targets[1]["area"].tolist() == [150.5, 100]
    assert targets[1]["iscrowd"].tolist() == [False, True]
    assert targets[2]["boxes"].shape == (0, 4) and targets[2]["labels"].shape == (0,)
    for t in targets:
        assert [t[key].dtype for key in ("boxes", "labels", "area")] == [torch.float64, torch.int64, torch.float64]
        assert t["iscrowd"].dtype == torch.bool and "masks" not in t
    image = dataset[0]["image"]
    assert image.shape == (3, 30, 40) and image.dtype == torch.uint8
    assert (image[:, 5, 5].int() - torch.tensor([200, 10, 15])).abs().max() <= 3


def test_classes_are_ordered_by_id(write: Write) -> None:
    classes = Coco("train", root=str(write())).classes["detection"]
    assert [(c.name, c.file_id) for c in classes] == [("train", 7), ("toothbrush", 90), ("unused", 1000)]
    assert [c.color for c in classes] == [color_of(0), color_of(1), color_of(2)]
    assert len({color_of(k) for k in range(80)}) == 80


def test_image_ids_may_be_strings_and_file_names_include_folders(write: Write) -> None:
    content = document()
    for image in content["images"]:
        image["id"], image["file_name"] = f"é{image['id']}", f"day one/é{image['id']}.png"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"é{annotation['image_id']}"
    dataset = Coco("train", root=str(write(content)))
    assert [dataset[index]["targets"]["image_id"] for index in range(3)] == ["é0", "é5", "é10"]
    assert len(dataset[1]["targets"]["boxes"]) == 2


def test_a_test_set_without_annotations_is_unlabelled_not_empty(write: Write) -> None:
    content = document()
    del content["annotations"]
    dataset = Coco("val", root=str(write(content, "val.json", "val")))
    assert dataset.provides == ()
    assert dataset[0]["targets"] == {"image_id": 0}
    assert len(dataset.classes["detection"]) == 3
    empty = Coco("train", root=str(write(document(annotations=[]))))
    assert empty.provides == ("boxes", "labels") and empty[0]["targets"]["boxes"].shape == (0, 4)


def test_sizes_are_read_from_images_if_missing_in_the_json(write: Write) -> None:
    content = document()
    for image in content["images"]:
        del image["height"], image["width"]
    dataset = Coco("train", root=str(write(content)))
    assert dataset.sizes().tolist() == [[30, 40]] * 3
    assert dataset.all_objects()[1]["boxes"].tolist() == [[0.5, 0.25, 30.5, 20.75], [1, 2, 11, 22]]


def test_limit_selects_the_first_images(write: Write) -> None:
    dataset = Coco("train", root=str(write()), limit=2)
    assert len(dataset) == 2 and dataset[1]["targets"]["labels"].tolist() == [1, 0]
    assert len(Coco("train", root=str(write()), limit=99)) == 3
    for limit in (0, -1):
        with pytest.raises(DataError, match=rf"data\.limit is {limit}; expected at least 1"):
            Coco("train", root=str(write()), limit=limit)


@pytest.mark.parametrize("said", ["upright", "stored"])
def test_boxes_are_aligned_with_exif_orientation(said: str, write: Write) -> None:
    """The object is the white corner; the size in the JSON determines on which of the two images its box was drawn."""
    stored = np.zeros((30, 40, 3), np.uint8)
    stored[:10, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side: upright, the corner lies at the top right
    box, height, width = ([20, 0, 10, 8], 40, 30) if said == "upright" else ([0, 0, 8, 10], 30, 40)
    image = {"id": 1, "file_name": "1.png", "height": height, "width": width}
    annotation = {"id": 1, "image_id": 1, "category_id": 7, "bbox": box}
    root = write(document(images=[image], annotations=[annotation]))
    Image.fromarray(stored).save(root / "train" / "1.png", exif=exif)
    sample = Coco("train", root=str(root), boxes="stored")[0]  # where the size does not tell
    x0, y0, x1, y1 = sample["targets"]["boxes"][0].int().tolist()
    assert sample["image"].shape == (3, height, width)
    assert (sample["image"][:, y0:y1, x0:x1] == 255).all() and (sample["image"] == 255).sum() == 3 * 80


# ---- masks ----


def test_masks_match_pycocotools(write: Write) -> None:
    rng = np.random.default_rng(0)
    disc = ((np.indices((30, 40)) - np.array([15, 20])[:, None, None]) ** 2).sum(axis=0) < 100
    packed = rle.encode(np.asfortranarray(disc.astype(np.uint8)))
    column_major = disc.T.ravel()
    changes = np.flatnonzero(np.diff(column_major)) + 1
    plain = {"size": [30, 40], "counts": np.diff([0, *changes, disc.size]).tolist()}
    segmentations = [
        [[1.5, 2.25, 30.3, 4.7, 20.1, 25.9]],
        [
            [1, 1, 9, 1, 9, 9, 1, 9],
            (rng.uniform(0, 30, 14)).round(2).tolist(),
            [3, 3, 4, 4],
        ],  # the last is not a polygon
        plain,
        {"size": [30, 40], "counts": packed["counts"].decode()},
    ]
    annotations = [
        {"id": k, "image_id": 5 * (k % 2), "category_id": 7, "bbox": [0, 0, 40, 30], "iscrowd": k // 2, "area": 1}
        | {"segmentation": segmentation}
        for k, segmentation in enumerate(segmentations)
    ]
    root = write(document(annotations=annotations))
    dataset = Coco("train", root=str(root), masks=True)
    assert dataset.provides == ("boxes", "labels", "masks")
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(root / "train.json")
    for index in range(2):
        masks = dataset[index]["targets"]["masks"]
        records = reference.loadAnns(reference.getAnnIds(imgIds=[5 * index]))
        for record in records:
            if isinstance(record["segmentation"], list):
                record["segmentation"] = [part for part in record["segmentation"] if len(part) >= 6]
        expected = np.stack([reference.annToMask(record) for record in records])
        assert isinstance(masks, RunLengthMasks) and np.array_equal(np.asarray(masks), expected)
    assert np.array_equal(np.asarray(dataset[0]["targets"]["masks"])[1], disc)
    assert dataset[2]["targets"]["masks"].shape == (0, 30, 40)


def test_masks_match_boxes_after_dropping_a_degenerate_one(write: Write) -> None:
    squares = [[[x, x, x + 4, x, x + 4, x + 4, x, x + 4]] for x in (0, 8, 16)]
    annotations = [
        {"id": k, "image_id": 0, "category_id": 7, "bbox": [8 * k, 8 * k, 4 * (k != 1), 4], "segmentation": square}
        for k, square in enumerate(squares)
    ]
    with pytest.warns(UserWarning, match="boxes without area .*: 1 of 3"):
        targets = Coco("train", root=str(write(document(annotations=annotations))), masks=True)[0]["targets"]
    for box, mask in zip(targets["boxes"].int().tolist(), targets["masks"].to("cpu"), strict=True):
        assert mask[box[1] : box[3], box[0] : box[2]].all() and mask.sum() == 16


@pytest.mark.parametrize(
    "segmentation", [None, [], [[1, 2, 3, 4]], {"size": [9, 9], "counts": [81]}, {"counts": [1]}, 5]
)
def test_missing_or_invalid_segmentation_raises_if_masks_are_requested(segmentation: Any, write: Write) -> None:
    annotation = {"id": 77, "image_id": 5, "category_id": 7, "bbox": [1, 1, 5, 5], "segmentation": segmentation}
    root = str(write(document(annotations=[annotation])))
    assert len(Coco("train", root=root)[1]["targets"]["boxes"]) == 1
    with pytest.raises(DataError, match=r"train\.json: annotation 77 of image 5: .*segmentation"):
        Coco("train", root=root, masks=True)


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        ((40, 0), r"outside of the image of \d+ x \d+: x is 41 to 46, y 1 to 6"),
        ((0, -7), r"outside of the image of \d+ x \d+: x is 1 to 6, y -6 to -1"),
        ((-3, 0), None),  # in part
    ],
)
def test_polygons_outside_of_their_image_are_named(shift: tuple[int, int], message: str | None, write: Write) -> None:
    polygon = (np.array([[1, 1], [6, 1], [6, 6], [1, 6]]) + shift).ravel().tolist()
    annotation = {"id": 77, "image_id": 5, "category_id": 7, "bbox": [1, 1, 5, 5], "segmentation": [polygon]}
    root = str(write(document(annotations=[annotation])))
    if message is None:
        assert Coco("train", root=root, masks=True)[1]["targets"]["masks"].areas().tolist() == [15]
    else:
        with pytest.raises(DataError, match=rf"train\.json: annotation 77 of image 5: .*{message}"):
            Coco("train", root=root, masks=True)


# ---- layouts ----


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_{}2017.json", "{}2017"),
        ("annotations/instances_{}2014.json", "images/{}2014"),
        ("annotations/instances_{}.json", "{}"),
        ("{}.json", "{}"),
        ("{}.json", "images"),
        ("annotations/{}.json", "images/{}"),
        ("annotations/{}.json", "{}/images"),
        ("{}/_annotations.coco.json", "{}"),
        ("{}/annotations.json", "{}/images"),
    ],
)
def test_usual_layouts_are_found(file: str, folder: str, write: Write) -> None:
    for split, spelling in (("train", "train"), ("val", "val"), ("val", "valid")):
        root = write(None, file.format(spelling), folder.format(spelling), root=f"set-{spelling}")
        assert len(Coco(split, root=str(root))) == 3


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_default.json", "images/default"),  # CVAT
        ("annotations/instances_default.json", "images"),
        ("result.json", "images"),  # Label Studio
        ("labels/of all.json", "photos/2024"),
        ("_annotations.coco.json", "."),
    ],
)
def test_single_json_is_found_under_any_name_with_its_images(file: str, folder: str, write: Write) -> None:
    root = write(document(images=FOUR), file, folder)
    assert Coco.recognise(root) == {}
    datasets = [Coco(split, root=str(root)) for split in ("train", "val")]
    ids = {one[i]["targets"]["image_id"] for one in datasets for i in range(len(one))}
    assert ids == {0, 5, 10, 15}


def test_images_of_a_single_json_are_found_behind_a_link(write: Write, tmp_path: Path) -> None:
    root = write(document(images=FOUR), "result.json", "../elsewhere")
    (root / "photos").symlink_to(tmp_path / "elsewhere")
    assert os.path.dirname(Coco("train", root=str(root)).path(0)) == str(root / "photos")


def test_images_of_label_studio_are_found_by_names_with_folders(write: Write) -> None:
    images = [{**image, "file_name": f"images/{image['file_name']}"} for image in FOUR]
    root = write(document(images=images), "project/result.json", "project")
    dataset = Coco("train", root=str(root))
    assert os.path.samefile(Path(dataset.path(0)).parent, root / "project" / "images")


def test_roboflow_group_of_all_classes_is_no_class(write: Write) -> None:
    categories = [{"id": 0, "name": "cell", "supercategory": "none"}]
    categories += [{"id": k, "name": name, "supercategory": "cell"} for k, name in ((7, "cell"), (90, "platelet"))]
    content = document(categories=categories)
    for split in ("valid", "train", "test"):
        root = write(content, f"{split}/_annotations.coco.json", split)
    for split in ("train", "val", "test"):
        assert [c.name for c in Coco(split, root=str(root)).classes["detection"]] == ["cell", "platelet"]
    content["annotations"][0]["category_id"] = 0  # a class of that number is one
    content["categories"][0]["name"] = content["categories"][1]["supercategory"] = "group"
    content["categories"][2]["supercategory"] = "group"
    root = write(content, root="other")
    assert len(Coco("train", root=str(root)).classes["detection"]) == 3


def test_split_of_another_name_is_no_single_json(write: Write) -> None:
    root = write(None, "test.json", "test")
    with pytest.raises(
        DataError, match=r"'val', only for test \(test\.json\)(.|\n)*To evaluate on test, set data\.split=test"
    ):
        Coco("val", root=str(root))


def test_later_of_two_years_is_used(write: Write) -> None:
    write(None, "annotations/instances_train2014.json", "train2014")
    root = write(document(images=document()["images"][:2]), "annotations/instances_train2017.json", "train2017")
    assert len(Coco("train", root=str(root))) == 2


def test_file_names_that_include_the_folder_are_found(write: Write) -> None:
    content = document()
    for image in content["images"]:
        image["file_name"] = f"train/{image['file_name']}"
    assert len(Coco("train", root=str(write(content, folder=".")))) == 3


def test_file_options_override_the_layout(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(None, "labels/mine.json", "photos")
    write(document(images=document()["images"][:2]), "labels/other.json", "photos/other")
    options = {"train_annotations": "labels/mine.json", "train_images": "photos"}
    options |= {"val_annotations": "labels/other.json", "val_images": "photos/other"}
    assert [len(Coco(split, root=str(root), **options)) for split in ("train", "val")] == [3, 2]
    assert len(Coco("val", root=str(root), annotations="labels/mine.json", images="photos")) == 3
    assert len(Coco("val", root=str(root), annotations="labels/other.json", **options)) == 2
    monkeypatch.chdir(tmp_path)
    assert len(Coco("train", annotations="set/labels/mine.json", images="set/photos")) == 3
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(Coco("train", root="~/set", **options)) == 3


def test_unknown_layout_error_lists_the_expected_paths(write: Write, tmp_path: Path) -> None:
    write(None, "one.json", "train")
    root = write(None, "two.json", "train")
    with pytest.raises(DataError) as caught:
        Coco("train", root=str(root))
    assert "Found 2 files in COCO's format with other names: one.json, two.json" in str(caught.value)
    for looked in ("annotations/instances_train2017.json", "train.json", "train/_annotations.coco.json"):
        assert looked in str(caught.value)
    assert "data.train_annotations" in str(caught.value)
    with pytest.raises(DataError, match=r"data\.root is missing"):
        Coco("train")
    with pytest.raises(DataError, match=f"no folder {tmp_path}/nowhere"):
        Coco("train", root=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"no annotation file .*set/x\.json"):
        Coco("train", root=str(root), annotations="x.json")


# ---- errors at startup ----


def test_degenerate_boxes_are_left_out_in_training_with_one_counted_warning(write: Write) -> None:
    boxes = [[1, 1, 0, 5], [1, 1, 5, 0], [3, 3, -1, 4], [40, 5, 10, 10], [-9, 5, 9, 9], [1, 1, 5, 5]]
    annotations = [{"id": k, "image_id": 5, "category_id": 7, "bbox": box} for k, box in enumerate(boxes)]
    root = str(write(document(annotations=annotations)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = Coco("train", root=root)
        assert len(dataset[1]["targets"]["boxes"]) == 6, "as in the json, for evaluation"
        assert dataset.object_counts().tolist() == [0, 1, 0] and dataset.image_classes().tolist() == [[1, 0]]
        assert dataset.all_objects()[1]["boxes"].tolist() == [[1, 1, 6, 6]]
        keep_size = EvaluationTransform(Fixed((30, 40)))
        assert keep_size(dataset[1])["targets"]["boxes"].tolist() == [[1, 1, 6, 6]]
        create_dataset("coco", "train", root=root)  # the same warning is not repeated
    (warning,) = caught
    assert warning.filename == __file__
    assert re.search(r"train\.json: boxes without area .*: 5 of 6 \(annotation 0, 1, 2, 3, 4\)", str(warning.message))


def with_annotation(**changes: Any) -> dict[str, Any]:
    content = document()
    content["annotations"][1] |= changes
    return content


def without(section: str, key: str) -> dict[str, Any]:
    content = document()
    del content[section][1][key]
    return content


def duplicated(section: str) -> dict[str, Any]:
    content = document()
    content[section][2]["id"] = content[section][0]["id"]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            with_annotation(category_id=8),
            r"annotation 12 has category_id 8, and no category has that id\. Known: 1000, 7, 90",
        ),
        (with_annotation(category_id=None), r"annotation 12 has category_id None"),
        (with_annotation(category_id=[7]), r"annotation 12 has category_id \[7\]"),
        (with_annotation(image_id=3), r"annotation 12 has image_id 3, and no image has that id"),
        (with_annotation(bbox=[1, float("nan"), 3, 4]), r"annotation 12 of image 0 has the box \[1, nan, 3, 4\]"),
        (with_annotation(bbox=[1, 2, float("inf"), 4]), r"annotation 12 of image 0 has the box"),
        (
            with_annotation(bbox=[1, 2, 3]),
            r"annotation 12 of image 0 has the box \[1, 2, 3\]; expected \[x, y, width, height\]",
        ),
        (with_annotation(bbox=[1, 2, 3, None]), r"annotation 12 of image 0 has the box"),
        (with_annotation(bbox="1 2 3 4"), r"annotation 12 of image 0 has the box"),
        (with_annotation(area="large"), r"annotation 12 has the area 'large'"),
        (without("annotations", "bbox"), r"annotation 12 has no `bbox`"),
        (without("annotations", "image_id"), r"annotation 12 has no `image_id`"),
        (without("images", "file_name"), r"image 5 has no `file_name`"),
        (without("images", "id"), r"image at position 1 has no `id`"),
        (without("categories", "name"), r"category 7 has no `name`"),
        (duplicated("images"), r"image id 0 occurs twice, for 0\.jpg and 2\.jpg"),
        (
            with_annotation(id=11),
            r"duplicate annotation ids: 11 \(images 5 and 0\)\. .*Fix: renumber",
        ),
        (duplicated("categories"), r"category id 90 occurs twice, for 'toothbrush' and 'unused'"),
        (document(images=[]), r"`images` is missing or empty"),
        (document(categories=[]), r"`categories` is missing or empty"),
        (document(annotations={"1": 2}), r"`annotations` is not a list of objects"),
        (document(images=[1, 2]), r"`images` is not a list of objects"),
        (
            document(images=[{"id": 1, "file_name": "1.jpg", "height": "tall"}], annotations=[]),
            r"image 1 has the height 'tall'",
        ),
        (document(images=[{"id": 1.5, "file_name": "1.jpg"}]), r"the image 1\.jpg has the id 1\.5"),
        (document(categories=[{"id": "a", "name": "cat"}]), r"category 'cat' has the id 'a'; expected a whole number"),
        ("[1, 2]", r"a list; expected COCO's object"),
        ('{"images": [', r"not valid json"),
    ],
)
def test_invalid_json_error_names_file_and_annotation(content: Any, message: str, write: Write) -> None:
    root = str(write(content))
    with pytest.raises(DataError, match=rf"train\.json:? .*{message}"):
        Coco("train", root=root)


def test_annotation_without_id_is_named_by_its_position(write: Write) -> None:
    content = with_annotation(category_id=8)
    del content["annotations"][1]["id"]
    with pytest.raises(DataError, match="annotation at position 1 has category_id 8"):
        Coco("train", root=str(write(content)))


def test_missing_images_are_counted_and_named(write: Write) -> None:
    root = write()
    (root / "train" / "0.jpg").unlink()
    (root / "train" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"train\.json names 3 images, of which 2 do not exist:\n.*0\.jpg\n.*2\.jpg"):
        Coco("train", root=str(root))


def test_truncated_image_is_named(write: Write) -> None:
    root = write()
    path = root / "train" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train/1\.jpg cannot be read: .*truncated"):
        Coco("train", root=str(root))


def test_image_of_another_size_is_named(write: Write) -> None:
    root = write()
    Image.new("RGB", (80, 60)).save(root / "train" / "1.jpg")
    with pytest.raises(DataError, match=r"train/1\.jpg has 80 x 60 pixels, but .*train\.json says 40 x 30"):
        Coco("train", root=str(root))


def test_image_changed_after_scanning_is_named(write: Write) -> None:
    root = write()
    dataset = Coco("train", root=str(root))
    Image.new("RGB", (80, 60)).save(root / "train" / "1.jpg")
    with pytest.raises(DataError, match=r"train/1\.jpg has changed since the start"):
        dataset[1]


def test_annotations_are_stored_in_arrays(write: Write) -> None:
    """Python objects have reference counts, so that each loader process would copy their memory."""
    arrays = vars(Coco("train", root=str(write()), limit=2)._annotations)
    python = {key for key, value in arrays.items() if not isinstance(value, np.ndarray)}
    assert python == {"file", "classes", "labelled", "segmentations", "invalid_images", "invalid_objects"}
    assert not arrays["invalid_images"] and not arrays["invalid_objects"]  # only an examination has any
    assert all(value.dtype != object for value in arrays.values() if isinstance(value, np.ndarray))


# ---- real data sets ----


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", ["coco_tiny", "bccd"])
def test_real_data_sets_match_pycocotools(name: str, split: str) -> None:
    root = REAL / name
    if not root.is_dir():
        pytest.skip(f"needs the folder {name} of real images; set DENSEVIT_DATA to where it lies")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = Coco(split, root=str(root), masks=name == "coco_tiny")
    file = root / (f"annotations/instances_{split}2017.json" if name == "coco_tiny" else f"{split}.json")
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(file)
    classes = dataset.classes["detection"]
    assert [c.file_id for c in classes] == sorted(reference.cats)
    assert len(dataset) == len(reference.imgs)
    for index in range(0, len(dataset), 7):
        targets = dataset[index]["targets"]
        records = reference.loadAnns(reference.getAnnIds(imgIds=[targets["image_id"]]))
        records = [record for record in records if min(record["bbox"][2:]) > 0]
        boxes = np.array([record["bbox"] for record in records]).reshape(-1, 4)
        assert np.allclose(targets["boxes"][:, :2], boxes[:, :2], atol=1e-4)
        assert np.allclose(
            targets["boxes"][:, 2:], boxes[:, :2] + boxes[:, 2:], atol=0.02
        )  # a few extend beyond the image
        assert [classes[label].file_id for label in targets["labels"]] == [record["category_id"] for record in records]
        assert targets["iscrowd"].tolist() == [bool(record["iscrowd"]) for record in records]
        assert np.allclose(targets["area"], [record["area"] for record in records])
        if "masks" in targets:
            assert all(
                np.array_equal(mask, reference.annToMask(record))
                for mask, record in zip(np.asarray(targets["masks"]), records, strict=True)
            )


# ---- paths out of the folder ----


@pytest.mark.parametrize("form", ["../../secret.jpg", "a/../../../secret.jpg", "{absolute}"])
def test_images_outside_of_their_folder_are_read_only_if_allowed(form: str, tmp_path: Path, write: Write) -> None:
    name = form.format(absolute=tmp_path / "secret.jpg")
    content = document()
    content["images"][1]["file_name"] = name
    root = write(content)
    message = rf"train\.json: image 5 has the file_name '{re.escape(name)}', outside of .*set/train\. .*outside_paths"
    with pytest.raises(DataError, match=message):
        Coco("train", root=str(root))
    allowed = Coco("train", root=str(root), outside_paths=True)
    assert (
        os.path.realpath(allowed.path(1)) == str(tmp_path / "secret.jpg") and len(allowed[1]["targets"]["boxes"]) == 2
    )


def test_a_cached_scan_does_not_allow_paths_outside(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("densevit.data.datasets.coco._LARGE_JSON", 0)
    monkeypatch.setenv("DENSEVIT_CACHE", str(tmp_path / "cache"))
    content = document()
    content["images"][1]["file_name"] = "../secret.jpg"
    root = write(content)
    Coco("train", root=str(root), outside_paths=True)
    with pytest.raises(DataError, match="outside_paths"):
        Coco("train", root=str(root))


def test_links_in_the_images_folder_and_absolute_paths_into_it_are_read(tmp_path: Path, write: Write) -> None:
    content = document()
    content["images"][0]["file_name"] = "linked/0.jpg"
    content["images"][1]["file_name"] = str(tmp_path / "set" / "train" / "1.jpg")
    content["images"][2]["file_name"] = "linked/../2.jpg"
    elsewhere = tmp_path / "disk" / "images"
    elsewhere.mkdir(parents=True)
    (tmp_path / "set" / "train").mkdir(parents=True)
    (tmp_path / "set" / "train" / "linked").symlink_to(elsewhere)
    root = write(content)
    assert (elsewhere / "0.jpg").is_file() and (tmp_path / "disk" / "2.jpg").is_file(), (
        "the parent of the link's target"
    )
    with pytest.raises(DataError, match="image 10 has the file_name 'linked/../2.jpg', outside of"):
        Coco("train", root=str(root))
    content["images"][2]["file_name"] = "2.jpg"
    assert len(Coco("train", root=str(write(content)))[1]["targets"]["boxes"]) == 2


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("categories", "name", r"category 90 has the name '\\ud800'; expected text"),
        ("images", "id", r"the image 0\.jpg has the id '\\ud800'; expected a whole number of 64 bits, or text"),
        ("annotations", "id", r"the annotation at position 0 has the id '\\ud800'"),
    ],
)
def test_half_of_a_surrogate_pair_is_no_text(section: str, key: str, message: str, write: Write) -> None:
    content = document()
    content[section][0][key] = "\ud800"  # valid json, but no file can hold it
    with pytest.raises(DataError, match=message):
        Coco("train", root=str(write(content)))


@pytest.mark.parametrize("size", [{"height": 10**9}, {"height": 2**20, "width": 2**20}, {"width": 2**20 + 1}])
def test_sizes_beyond_those_of_images_are_named(size: dict[str, int], write: Write) -> None:
    content = document()
    content["images"][1] |= size
    with pytest.raises(DataError, match=r"train\.json: image 5: it has .* pixels; at most 1,073,741,824 can be read"):
        Coco("train", root=str(write(content)), masks=True)


def test_images_are_named_as_in_the_json(write: Write) -> None:
    dataset = Coco("train", root=str(write(document())))
    assert [dataset.image_name(index) for index in range(3)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert MappedClasses(dataset, {}).image_name(1) == "1.jpg"
