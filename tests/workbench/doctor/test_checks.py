"""`densevit doctor` compares labels with each other: likely mistakes with the option or command for each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densevit
from densevit import config, registry
from densevit_workbench.doctor.checks import alike_names
from densevit_workbench.doctor.next_command import STARTS
from tests.workbench.doctor.test_examination import HEIGHT, WIDTH, box, save, write_coco, write_label_maps
from tests.written_files import save_image, write_text


def polygon(x: int, y: int, width: int, height: int) -> list[list[int]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def objects(exchanged: int, count: int = 4) -> list[dict[str, Any]]:
    """An object of 9 x 12 pixels in each image; of the first `exchanged` ones, the polygon has y before x."""
    boxes = [[30 + i, 4, 9, 12] for i in range(count)]
    orders = [[1, 0, 3, 2] if i < exchanged else [0, 1, 2, 3] for i in range(count)]
    return [box(i, i, boxes[i], segmentation=polygon(*(boxes[i][k] for k in order))) for i, order in enumerate(orders)]


def write_depth(root: Path, medians: list[int]) -> Path:
    """Depth in millimetres, for train and val."""
    for split in ("train", "val"):
        for number, median in enumerate(medians):
            save(root / "images" / split / f"{number:02}.png", number + 100 * (split == "val"))
            depth = np.linspace(0.9 * median, 1.1 * median, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
            save_image(root / "labels" / split / f"{number:02}.png", depth.astype(np.uint16))
    return root


@pytest.mark.parametrize("options", [[], ["data.masks=true"]])
@pytest.mark.parametrize(("exchanged", "severity"), [(4, "error"), (1, "warning")])
def test_masks_outside_of_their_boxes(exchanged: int, severity: str, options: list[str], tmp_path: Path):
    write_coco(tmp_path, "train", objects(exchanged), images=4)
    write_coco(tmp_path, "val", objects(0), images=4, first=50)
    [finding] = [one for one in densevit.doctor(tmp_path, options).findings if "bbox" in str(one)]
    assert (finding.severity, finding.split, finding.count, finding.of) == (severity, "train", exchanged, 4)
    assert f"{exchanged} of 4 masks lie outside of their bbox; x and y look exchanged" in finding.examples[0]
    assert finding.examples[1] == "annotation 0 of image 0.png"


def test_spellings_of_a_class_are_a_warning_with_the_command(tmp_path: Path):
    write_text(tmp_path / "data.yaml", "{train: images/train, val: images/val, names: [aple, apple]}")
    for split, first in (("train", 0), ("val", 50)):
        save(tmp_path / "images" / split / "0.png", first)
        write_text(
            tmp_path / f"labels/{split}/0.txt", "\n".join(f"{int(i > 0)} 0.5 0.5 0.{i + 10} 0.5" for i in range(21))
        )
    [finding] = [one for one in densevit.doctor(tmp_path).findings if "look alike" in one.title]
    assert (finding.split, finding.examples) == ("train", ("aple 1, apple 20",))
    assert finding.fix.endswith(f"densevit data convert yolo {tmp_path} NEW_FOLDER --merge=aple=apple")


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["apple", "aple", "pear"], [("apple", "aple")]),
        (["Traffic light", "traffic_light"], [("Traffic light", "traffic_light")]),
        (["stone", "store"], [("stone", "store")]),
        (["car", "cat", "value 1", "value 2", "van", "1", "2"], []),
    ],
)
def test_alike_names_differ_in_a_letter_or_in_case(names: list[str], pairs: list[tuple[str, str]]):
    assert alike_names(names) == pairs


def recipe_heads(start: str) -> set[str]:
    """The target keys that the heads of a recipe need."""
    heads = config.load(start).heads.values()
    return {key for head in heads for key in registry.load("heads", head.name).required_targets}


@pytest.mark.parametrize(("key", "start"), STARTS.items())
def test_a_recipe_needs_the_labels_for_which_it_is_named(key: str, start: str):
    assert key in recipe_heads(start)


def folder(root: Path, layout: str) -> tuple[list[str], list[str]]:
    """Writes a folder; returns the options that doctor needs for it, and the recipes that it can train."""
    if layout == "labels":
        write_label_maps(root)
        return [], ["start/semantic"]
    if layout == "depth":
        write_depth(root, [3000, 15_000, 2500])
        return ["data.scale=0.001"], ["start/depth"]
    for split, first in (("train", 0), ("val", 50)):
        annotations = objects(0)
        for annotation in annotations if layout == "boxes" else []:
            del annotation["segmentation"]
        write_coco(root, split, annotations, images=4, first=first)
    return [], ["start/detector", *(["start/instances"] if layout == "polygons" else [])]


@pytest.mark.parametrize("layout", ["labels", "depth", "boxes", "polygons"])
def test_the_commands_for_a_recognised_folder_are_valid(layout: str, tmp_path: Path):
    options, starts = folder(tmp_path, layout)
    [finding] = [one for one in densevit.doctor(tmp_path, options).findings if "recipes" in one.title]
    words = [command.split() for command in finding.examples]
    assert [word[:4] for word in words] == [["densevit", "train", start, f"data={tmp_path}"] for start in starts]
    for word in words:
        loaded = config.load(word[2], word[3:]) if "'" not in " ".join(word) else None
        assert loaded is None or str(loaded.data.options["root"]) == str(tmp_path)
    assert layout != "depth" or words[0][-1] == "heads.depth.max_depth=17"  # of 16.5 m
