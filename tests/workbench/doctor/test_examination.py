"""`densevit doctor` on hand-made data sets: all problems at once, each with its severity, count and example."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import densevit
from densevit import config
from densevit.data.data_builder import build_data
from densevit.errors import DataError, DensevitError
from densevit_workbench.doctor.source import find_source
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from tests.built_models import build_model
from tests.data.coco_folder import write_split
from tests.written_files import save_image, write_text, write_texts

WIDTH, HEIGHT = 64, 48


def coarse(seed: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def save(path: Path, seed: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    save_image(path, coarse(seed, size))


def box(number: int, image: Any, bbox: Any, category: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, **more}


def write_coco(root: Path, split: str, annotations: list[dict[str, Any]], images: int, first: int = 0) -> Path:
    """A split of images 0.png, 1.png, ... with these annotations and the classes cat, dog and cow."""
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cow"}]
    write_split(root, split, [coarse(first + number) for number in range(images)], annotations, categories)
    return root


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A COCO folder with every kind of problem, once or twice."""
    annotations = [
        box(1, 0, [4, 4, 20, 20]),
        box(2, 0, [4, 4, 20, 20]),  # doubled
        box(3, 0, [5, 5, 0, 20], 2),  # without area
        box(4, 1, [70, 5, 10, 10], 2),  # outside
        box(5, 1, [50, 30, 30, 10], 2),  # partly outside
        box(6, 99, [1, 1, 9, 9]),  # no such image
        box(7, 2, [1, 1, 9, 9], 50),  # no such category
        box(8, 2, [1, 1, 9]),  # no box
        box(9, 2, [1, 1, 9, None]),
        box(10, 2, [1, 1, 9, 9], area=-4),
        box(11, 2, [1, 1, 9, 9], iscrowd=7),
        box(12, 3, [1, 1, 9, 9]),
        box(12, 3, [2, 2, 9, 9], 2),  # the id occurs twice
        box(13, 4, [2, 2, 9, 9], 2),
    ]
    root = write_coco(tmp_path / "set", "train", annotations, images=8)
    document = json.loads((root / "train.json").read_text())
    document["images"].append(dict(document["images"][5], file_name="x.png"))  # a duplicate id
    (root / "train.json").write_text(json.dumps(document))
    save(root / "train" / "4.png", 4, size=(40, 40))  # of another size than the json says
    whole = (root / "train" / "6.png").read_bytes()
    (root / "train" / "6.png").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "7.png").unlink()
    write_coco(root, "val", [box(1, 0, [4, 4, 20, 20]), box(2, 1, [4, 4, 20, 20], 2)], images=2, first=50)
    (root / "val" / "1.png").write_bytes((root / "train" / "3.png").read_bytes())  # a copy
    near = np.asarray(Image.open(root / "train" / "2.png")).astype(int) + 1
    Image.fromarray(near.clip(0, 255).astype(np.uint8)).save(root / "val" / "0.png")
    return root


def test_all_problems_are_found_at_once(broken: Path):
    diagnosis = densevit.doctor(broken)
    found = {(one.severity, one.split, one.title): one for one in diagnosis.findings}
    counts = {key: one.count for key, one in found.items() if key[0] != "note"}
    assert counts == {
        ("error", "train", "duplicate image ids"): 1,
        ("error", "train", "annotations of unknown images"): 1,
        ("error", "train", "annotations of unknown categories"): 1,
        ("error", "train", "invalid boxes"): 2,
        ("error", "train", "invalid areas"): 1,
        ("error", "train", "invalid iscrowd"): 1,
        ("error", "train", "missing images"): 1,
        ("error", "train", "unreadable files"): 1,
        ("error", "train", "invalid files"): 1,
        ("error", "", "identical images in several splits"): 1,
        ("warning", "", "nearly identical images in several splits"): 1,
        ("error", "train", "duplicate annotation ids"): 1,
        ("warning", "train", "boxes without area"): 1,
        ("warning", "train", "boxes outside of their image"): 1,
        ("warning", "train", "boxes partly outside of their image"): 1,
        ("warning", "train", "duplicate boxes (same image, class and box)"): 1,
        ("warning", "train", "classes without objects of 'labels'"): 1,
    }
    order = [("error", "warning", "note").index(one.severity) for one in diagnosis.findings]
    assert order == sorted(order)
    examples = {title: one.examples for (_, _, title), one in found.items()}
    assert "annotation 6 of image 99" in examples["annotations of unknown images"][0]
    assert "annotation 4 of image 1.png of 64 x 48: [70, 5, 10, 10]" in examples["boxes outside of their image"]
    assert examples["missing images"] == (str(broken / "train" / "7.png"),)
    assert "40 x 40 pixels, but" in examples["invalid files"][0]
    assert examples["identical images in several splits"] == (f"train: {broken}/train/3.png = val: {broken}/val/1.png",)
    train = diagnosis.splits["train"]
    assert train.classes["labels"].counts.tolist() == [3, 2, 0], "of the annotations that are no errors"
    assert train.images == 8
    assert diagnosis._repr_html_().count('<div class="finding') == len(diagnosis.findings)
    alone = densevit.doctor(broken, ["data.val_split=train"])
    assert list(alone.splits) == ["train"]
    assert [one for one in alone.errors if one.title == "invalid boxes"] == [found["error", "train", "invalid boxes"]]
    partly = densevit.doctor(broken, ["data.labelled_classes=[dog]"])
    assert {(one.split, one.title): one.count for one in partly.errors} == {
        (split, title): count for (severity, split, title), count in counts.items() if severity == "error"
    }
    assert counts["warning", "train", "boxes without area"] in {
        one.count for one in partly.findings if one.title == "boxes without area"
    }


def test_a_clean_set_has_no_findings_but_notes(tmp_path: Path):
    annotations = [box(n, n, [4, 4, 10 + n, 20], n % 3 + 1) for n in range(30)]
    write_coco(tmp_path, "train", annotations, images=30)
    write_coco(tmp_path, "val", annotations[:3], images=3, first=100)
    diagnosis = densevit.doctor(tmp_path, images=10)
    assert {one.severity for one in diagnosis.findings} <= {"note"}
    assert diagnosis.splits["train"].opened == 10
    boxes = diagnosis.splits["train"].measures["boxes"]
    assert boxes["width (px)"].tolist() == [10 + n for n in range(30)], "of all images, not of those that were opened"
    np.testing.assert_allclose(boxes["width / height"], [(10 + n) / 20 for n in range(30)])
    assert len(diagnosis.samples) == 10


def write_label_maps(root: Path) -> Path:
    for split, count in (("train", 5), ("val", 2)):
        for number in range(count):
            save(root / "images" / split / f"{number}.png", number + (50 if split == "val" else 0))
            values = np.zeros((HEIGHT, WIDTH), np.uint8)
            values[:12], values[-12:] = 1, 255
            save_image(root / "labels" / split / f"{number}.png", values)
    return root


@pytest.mark.integration
def test_a_folder_of_the_working_directory_is_a_path_in_commands(cwd: Path):
    for first, split in enumerate(("train", "val")):
        write_coco(cwd / "set", split, [box(1, 0, [4, 4, 20, 20])], images=1, first=first)
    commands = [text for one in densevit.doctor("set").findings for text in one.examples if "densevit train" in text]
    assert commands == ["densevit train start/detector data=./set"]


def test_causes_of_a_score_near_zero_are_named(tmp_path: Path):
    """Objects of other sizes in the splits: sides of 8 and 33 px in images of 64 x 48; few images, random weights."""
    for split, side, first in (("train", 8, 0), ("val", 33, 100)):
        write_coco(tmp_path, split, [box(n, n, [4, 4, side, side], n + 1) for n in range(3)], images=3, first=first)
    data = [f"data={{name: coco, root: {tmp_path}, image_size: 64}}", "data.batch_size=1"]
    found = {one.title: one for one in densevit.doctor("detr_swin", data).findings}
    sizes = found["the splits have objects of different sizes"]
    assert sizes.examples == ("boxes: the median side is 14.4% and 59.5% of the image's in train and val",)
    assert found["random weights"].examples == ("with only 3 training images",)


@pytest.mark.integration
def test_a_config_is_checked_and_its_cost_counted(tmp_path: Path):
    overrides = ["data.train_length=6", "data.val_length=2", "data.image_size=64", "trainer.max_images=80"]
    diagnosis = densevit.doctor("scenes/setr_swin", overrides)
    cost = diagnosis.cost
    assert cost is not None and not diagnosis.errors
    scenes = densevit.create_dataset("scenes", "train", image_size=64, train_length=6)
    model = build_model(config.load("scenes/setr_swin", overrides), scenes)
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert cost.budget.images <= 80 < cost.budget.images + cost.budget.images_per_step
    assert any("too little to learn from" in one.examples[0] for one in diagnosis.findings)


def test_a_config_whose_head_lacks_labels_is_an_error(tmp_path: Path):
    root = write_label_maps(tmp_path)
    data = [f"data={{name: label_maps, root: {root}, classes: [floor, wall]}}"]
    [wrong] = densevit.doctor("dpt_swin", data).errors
    assert wrong.title == "the config cannot be trained on this data"
    assert "needs depth" in wrong.examples[0]


@pytest.mark.integration
def test_the_command_writes_a_page_and_returns_1_for_errors(broken: Path, cwd: Path, run):
    shown = run("doctor", broken, code=1)
    assert "error: train: 2 of 14 invalid boxes" in shown and "page: doctor.html" in shown
    page = Path("doctor.html").read_text()
    assert "<img" in page and not re.search(r'(?:src|href)="(?!data:)', page), "nothing is loaded from elsewhere"
    assert "annotation 8 of image 2.png" in page
    printed = json.loads(run("doctor", broken, "--json", "--quiet", code=1))
    assert printed["errors"] == 11 and printed["page"] == "doctor-2.html"
    assert printed["splits"]["train"]["classes"]["labels"]["counts"] == {"cat": 3, "dog": 2, "cow": 0}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nothing", "has none of the layouts"),
        ("{}/nothin", "no such folder. Did you mean"),
        ("wrong.yaml", "wrong.yaml, line 1"),
        ("coco data.root=nothing data.nope=1", "nope is not an option of 'coco'"),
    ],
)
def test_mistakes_of_the_user_are_errors(given: str, said: str, cwd: Path, run):
    (cwd / "nothing").mkdir()
    (cwd / "wrong.yaml").write_text("a: [")
    assert said in run("doctor", *given.format(cwd).split(), code=2)


@pytest.mark.parametrize(
    ("format", "file", "text"),
    [
        ("yolo", "labels/train/a.txt", "0 0.5 0.5 0.2 0.1\n"),
        ("yolo", "data.yaml", "train: ../elsewhere/images\nnames: [cat]\n"),
        ("voc", "Annotations/a.xml", "<annotation><filename>a.jpg</filename><object/></annotation>"),
        ("labelme", "train/a.json", '{"shapes": [], "imagePath": "a.jpg"}'),
        (None, "a.txt", "a cat\n"),
        (None, "data.yaml", "names: [cat]\n"),
    ],
)
def test_a_folder_of_another_format_is_recognised(tmp_path: Path, format: str | None, file: str, text: str):
    folder = tmp_path / "set"
    save(folder / "a.png", 0)
    write_text(folder / file, text)
    if format:
        assert find_source(folder).section.name == format
    else:
        with pytest.raises(DataError, match="has none of the layouts"):
            densevit.doctor(folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("set.zip", r"is an archive or a compressed file\. Fix: unpack it, and name the folder"),
        ("set/annotations/instances_default.json", r"holds annotations\. Fix: name the folder of the data set"),
        (
            "set/annotations.xml",
            r"annotations\.xml(: holds annotations\. Fix: name the folder| is in CVAT's own format, .* Fix: export)",
        ),
        ("set", r"annotations\.xml is in CVAT's own format, .* Fix: export the task in the format COCO 1\.0,"),
    ],
)
def test_what_label_tools_export_is_refused_with_the_next_step_in_one_line(tmp_path: Path, name: str, says: str):
    """By `doctor`, by `data=` and, for a folder, by a conversion."""
    texts = {"set.zip": "PK", "set/annotations.xml": "<?xml version='1.0'?>\n<annotations></annotations>"}
    if name.endswith("json"):
        texts[name] = '{"images": [{"id": 1, "file_name": "0.jpg"}], "categories": [], "annotations": []}'
    write_texts(tmp_path, texts)
    detector: dict[str, Any] = {"backbone": {"name": "resnet"}, "heads": {"detection": {"name": "detr"}}}
    for door in (
        lambda: densevit.doctor(tmp_path / name),
        lambda: build_data(config.load({**detector, "trainer": {"max_steps": 1}}, [f"data={tmp_path / name}"])).train,
    ):
        with pytest.raises(DensevitError, match=says) as error:
            door()
        assert len(str(error.value).splitlines()) == 1
    if name == "set":
        with pytest.raises(DataError, match=says):
            convert_dataset("voc", tmp_path / name, tmp_path / "out")
