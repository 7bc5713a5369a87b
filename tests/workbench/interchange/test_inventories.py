"""What a conversion finds, uses and leaves out: numbers counted here from the files, and the reasons."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from densevit.cli import main
from densevit.errors import DataError
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from tests.workbench.interchange.files import image, write

NAN = float("nan")
IMAGE_SUFFIXES = (".jpg", ".png", ".heic")


def files(root: Path, *suffixes: str) -> list[Path]:
    """All files below a folder and linked folders, by `os.walk`."""
    names = (Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    return [path for path in names if path.suffix in suffixes]


def link(root: Path, folder: str, store: Path) -> None:
    """Moves a folder elsewhere and links to it."""
    os.rename(root / folder, store)
    os.symlink(store.resolve(), root / folder)


def yolo(root: Path) -> tuple[int, int, int]:
    for name in ("train/cam/a", "train/b", "val/c"):
        image(root / "images" / f"{name}.jpg")
        write(root / "labels" / f"{name}.txt", "0 0.5 0.5 0.5 0.5\n")
    link(root, "images/train/cam", root.parent / "store")
    wrong = "0 0.5 0.5 0.5 0.5 0.75\n0 0.5 0.5 0 0.5\n0 30 10 20 20\n0 nan 0.5 0.5 0.5"
    write(root / "labels" / "train" / "b.txt", wrong)
    image(root / "images" / "train" / "damaged.jpg", damaged=True)
    write(root / "labels" / "train" / "damaged.txt", "0 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.5 0.5\n")
    image(root / "images" / "train" / "unlabelled.jpg")
    image(root / "images" / "extra" / "unlisted.jpg")
    image(root / "plot.png")
    write(root / "images" / "train" / "phone.heic", "")
    write(root / "labels" / "train" / "phone.txt", "0 0.5 0.5 0.5 0.5\n")
    write(root / "labels" / "val" / "lone.txt", "0 0.5 0.5 0.5 0.5\n")
    write(root / "README.txt", "This set was exported by hand.\n")
    write(root / "val.txt", "images/val/c.jpg\nimages/val/gone.jpg\n")
    write(root / "data.yaml", "train: images/train\nval: val.txt\nnames: [cat]\n")
    labels = [path for path in files(root, ".txt") if "labels" in path.parts]
    lines = sum(len(path.read_text().splitlines()) for path in labels)
    return len(files(root, *IMAGE_SUFFIXES)) + 1, len(labels), lines  # gone.jpg


def voc(root: Path) -> tuple[int, int, int]:
    def xml(boxes: list[tuple[Any, ...]]) -> str:
        sides = ("xmin", "ymin", "xmax", "ymax")
        corners = (
            "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box, strict=False)) for box in boxes
        )
        objects = (f"<object><name>cat</name><bndbox>{text}</bndbox></object>" for text in corners)
        return f"<annotation><size/>{''.join(objects)}</annotation>"

    good = (1, 1, 20, 20)
    wrong = [(20, 20, 10, 10), (100, 1, 120, 20), ("nan", 1, 20, 20), (1, 1, 20)]
    for name in ("a", "b", "c", "damaged", "unlisted"):
        image(root / "JPEGImages" / f"{name}.jpg", damaged=name == "damaged")
        write(root / "Annotations" / f"{name}.xml", xml([good] + (wrong if name == "b" else [good])))
    link(root, "Annotations", root.parent / "store")
    image(root / "JPEGImages" / "unlabelled.jpg")
    write(root / "JPEGImages" / "phone.heic", "")
    write(root / "Annotations" / "phone.xml", xml([good]))
    write(root / "Annotations" / "lone.xml", xml([good]))
    write(root / "about.xml", "<about/>")
    write(root / "ImageSets" / "Main" / "train.txt", "a\nb\ndamaged\nphone\nlone\n")
    write(root / "ImageSets" / "Main" / "val.txt", "c\ngone\n")
    xmls = files(root, ".xml")
    return len(files(root, *IMAGE_SUFFIXES)), len(xmls) + 1, sum(path.read_text().count("<object>") for path in xmls)


def labelme(root: Path) -> tuple[int, int, int]:
    square = {"label": "cat", "shape_type": "rectangle", "points": [[1, 1], [20, 20]]}
    wrong = [square | {"shape_type": kind, "points": [[1, 1], [9, 9]]} for kind in ("linestrip", "polygon")]
    wrong.append(square | {"shape_type": "point", "points": [[1, 1]]})
    wrong += [square | {"points": points} for points in ([[1, 1], [1, 9]], [[100, 1], [120, 9]], [[NAN, 1], [1, 9]])]
    for name in ("train/a", "train/b", "val/c", "train/damaged", "unlisted"):
        shapes = [square] + (wrong if name == "train/b" else [square])
        file = image(root / f"{name}.jpg", damaged="damaged" in name)
        write(root / f"{name}.json", json.dumps({"shapes": shapes, "imagePath": file.name}))
    link(root, "val", root.parent / "store")
    image(root / "train" / "unlabelled.jpg")
    for name in ("phone", "lone"):
        write(root / "train" / f"{name}.json", json.dumps({"shapes": [square], "imagePath": f"{name}.heic"}))
    write(root / "train" / "phone.heic", "")
    write(root / "settings.json", "{}")
    jsons = files(root, ".json")
    return len(files(root, *IMAGE_SUFFIXES)), len(jsons), sum(path.read_text().count('"label"') for path in jsons)


def coco(root: Path) -> tuple[int, int, int]:
    boxes: list[Any] = [[1, 1, 20, 20], [5, 5, 0, 9], [5, 5, 4, -9], [100, 1, 9, 9]]
    for split, names in {"train": ("a", "b", "damaged", "gone"), "val": ("c",)}.items():
        records = []
        for k, name in enumerate(names):
            records += [{"image_id": k, "bbox": box} for box in (boxes if name == "b" else boxes[:1])]
            if name != "gone":
                image(root / split / f"{name}.jpg", damaged=name == "damaged")
        document = {
            "images": [{"id": k, "file_name": f"{name}.jpg"} for k, name in enumerate(names)],
            "annotations": [{"id": k, "category_id": 1} | record for k, record in enumerate(records)],
            "categories": [{"id": 1, "name": "cat"}],
        }
        write(root / f"{split}.json", json.dumps(document))
    link(root, "val", root.parent / "store")
    image(root / "train" / "unlisted.jpg")
    write(root / "captions.json", "{}")
    jsons = files(root, ".json")
    records_of = sum(len(json.loads(path.read_text()).get("annotations", [])) for path in jsons)
    return len(files(root, *IMAGE_SUFFIXES)) + 1, len(jsons), records_of


REASONS: dict[Callable[[Path], tuple[int, int, int]], tuple[dict[str, int], dict[str, int], dict[str, int]]] = {
    yolo: (
        {"that cannot be read": 1, "named, but missing": 1, "in no split": 2, "format that is not read": 1},
        {"of an image that is left out": 1, "without an image": 1, "of an image in a format": 1},
        {"no area": 1, "coordinates outside": 1, "not finite": 1, "of a file that is left out": 4},
    ),
    voc: (
        {"that cannot be read": 1, "without an xml file": 2, "format that is not read": 1},
        {"whose image is left out": 3, "in no split": 1, "but missing": 1, "not in Pascal VOC": 1},
        {"no area": 1, "outside of the image": 1, "not finite": 1, "without a bndbox": 1, "of a file that is": 6},
    ),
    labelme: (
        {"that cannot be read": 1, "without a json file": 2, "format that is not read": 1},
        {"whose image is left out": 3, "in no split": 1, "without labelme's": 1},
        {
            **{"type point": 1, "type linestrip": 1, "wrong number of points": 1, "box has no area": 1},
            **{"outside of the image": 1, "not finite": 1, "of a file that is left out": 6},
        },
    ),
    coco: (
        {"that cannot be read": 1, "named, but missing": 1, "in no json": 1},
        {"not named as the json of a split": 1},
        {"no area": 2, "outside of the image": 1, "of a file that is left out": 2},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", REASONS, ids=lambda make: make.__name__)
def test_what_is_found_is_used_or_left_out_for_a_reason(tmp_path, make, capsys):
    root, out = tmp_path / "in", tmp_path / "out"
    expected = make(root)
    assert main(["data", "convert", make.__name__, str(root), str(out), "--skip-unreadable", "--json"]) == 0
    counts = list(json.loads(capsys.readouterr().out)["inventories"].values())
    assert tuple(one["found"] for one in counts[:3]) == expected
    for one, reasons in zip(counts, REASONS[make], strict=False):
        left_out = {reason: len(names) for reason, names in one["left_out"].items()}
        assert one["found"] == one["used"] + sum(left_out.values())
        assert len(left_out) == len(reasons), left_out
        for part, count in reasons.items():
            assert [number for reason, number in left_out.items() if part in reason] == [count], (part, left_out)
    written = [json.loads((out / f"{split}.json").read_text()) for split in ("train", "val")]
    assert counts[0]["used"] == sum(len(document["images"]) for document in written) == len(files(out, ".jpg"))
    assert counts[2]["used"] == sum(len(document["annotations"]) for document in written)
    arguments = ["data", "convert", make.__name__, str(root), str(tmp_path / "strict"), "--skip-unreadable"]
    assert main([*arguments, "--strict", "--quiet"]) == 2 and not (tmp_path / "strict").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_set_of_which_every_object_is_invalid_is_an_error(tmp_path: Path):
    image(tmp_path / "in" / "images" / "a.jpg")
    write(tmp_path / "in" / "labels" / "a.txt", "0 30 10 20 20\n")
    write(tmp_path / "in" / "classes.txt", "cat\n")
    with pytest.raises(DataError, match=r"no image has a label.*1 left out \(1 with coordinates outside of 0"):
        convert_dataset("yolo", tmp_path / "in", tmp_path / "out")
