"""densevit/config/layer_reading.py: files over their bases, and files of sections and heads."""

import pytest

from densevit import config
from tests.config.conftest import MINE, message, write


def test_base_is_relative_to_the_file_and_merged_by_key():
    write("deep/base.yaml", MINE)
    write("deep/mine.yaml", "base: base.yaml\nseed: 3\ndata: {batch_size: 4}\nheads: {extra: {name: detr}}\n")
    loaded = config.load("deep/mine.yaml")
    assert (loaded.seed, loaded.data.batch_size, loaded.data.image_size) == (3, 4, 160)
    assert list(loaded.heads) == ["detection", "extra"]


def test_a_file_of_a_section_or_a_head_may_have_a_base():
    write("parts/small.yaml", "name: detr\nnum_queries: 10\nwidth: 32\n")
    write("parts/tiny.yaml", "base: small.yaml\nwidth: 16\n")
    loaded = config.load("mine.yaml", ["heads.second=parts/tiny.yaml", "heads.detection=null"])
    assert {name: head.options for name, head in loaded.heads.items()} == {"second": {"num_queries": 10, "width": 16}}
    write("child.yaml", "base: mine.yaml\ndata: parts/coco.yaml\n")
    write("parts/coco.yaml", "name: coco\nroot: there\n")
    assert config.load("child.yaml").data.options == {"root": "there"}


@pytest.mark.parametrize(
    ("text", "facts"),
    [("base: loop.yaml\n", "loop.yaml: base is circular"), ("base: [a, b]\n", "base must be one file")],
)
def test_a_wrong_base_is_an_error(text, facts):
    assert facts in message(file=write("loop.yaml", text))


@pytest.mark.parametrize(
    ("recipe", "name", "size"),
    [
        ("start/semantic", "label_maps", 320),
        ("start/rf_detr_masks", "coco", 384),
        ("detr_swin", "coco", 320),
        ("camvid", "label_maps", (240, 320)),
        ("coco/detr_r50", "coco", 320),
    ],
)
def test_a_folder_as_data_is_the_root_in_recipes_for_the_user_s_images(recipe, name, size, tmp_path):
    """And in those for other annotations than boxes; elsewhere it is the section `data/folder`."""
    write("child.yaml", f"base: {recipe}\ndata: {tmp_path}\n")
    for loaded in (config.load("child.yaml"), config.load(recipe, [f"data={tmp_path}"])):
        assert (loaded.data.name, loaded.data.options["root"]) == (name, str(tmp_path))
        assert loaded.data.image_size == size
        assert ("masks" in loaded.data.options) == (recipe == "start/rf_detr_masks")
