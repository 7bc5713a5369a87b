"""The commands of docs/troubleshooting.md end with the messages that the page quotes."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
BLOCKS = re.findall(r"```console\n\$ densevit (.*?)\n(.*?)```", PAGE.read_text(), re.DOTALL)


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(path)


def write_coco(root: Path, width: int) -> None:
    """Three images with one box each, in both splits. width: of the boxes."""
    for split in ("train", "val"):
        images, annotations = [], []
        for i in range(3):
            write_image(root / split / f"{i}.jpg")
            images.append({"id": i, "file_name": f"{i}.jpg", "width": 80, "height": 60})
            box = {"bbox": [5, 5, width, 20], "area": 400, "iscrowd": 0}
            annotations.append({"id": i + 1, "image_id": i, "category_id": 1, **box})
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders and files of the page."""
    root = tmp_path_factory.mktemp("world")
    write_coco(root / "other_boxes", width=-3)
    return root


@pytest.mark.parametrize(("command", "message"), BLOCKS, ids=[command for command, _ in BLOCKS])
def test_the_message_is_as_on_the_page(
    command: str, message: str, world: Path, inside: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
):
    inside(world)
    assert main(shlex.split(command)) == 2
    found = " ".join(capsys.readouterr().err.split())
    parts = [re.escape(part.strip()) for part in " ".join(message.split()).split("...")]
    assert re.search(".*".join(parts), found), found
