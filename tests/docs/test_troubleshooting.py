"""The commands of docs/troubleshooting.md end with the messages that the page quotes."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from densevit.cli import main
from tests.data.coco_folder import write_split

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
BLOCKS = re.findall(r"```console\n\$ densevit (.*?)\n(.*?)```", PAGE.read_text(), re.DOTALL)


def write_coco(root: Path, width: int) -> None:
    """Three images with one box each, in both splits. width: of the boxes."""
    for split in ("train", "val"):
        box = {"category_id": 1, "bbox": [5, 5, width, 20], "area": 400, "iscrowd": 0}
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        annotations = [{"id": i + 1, "image_id": i, **box} for i in range(3)]
        write_split(root, split, [np.zeros((60, 80, 3), np.uint8)] * 3, annotations, categories)


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
