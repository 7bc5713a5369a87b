"""densevit/config/data_schema.py: what is derived from keys of `data`, and keys that do not fit each other."""

from typing import Any

import pytest

from densevit import config as configs
from densevit.config import DataSection
from densevit.config.data_schema import folder_name
from densevit.errors import ConfigError


@pytest.mark.parametrize(
    ("plugin", "root", "expected"),
    [("coco", "/sets/street", "street"), ("yolo", "street/data.yaml", "street"), ("my.data:Own", None, "Own")],
)
def test_a_data_set_is_named_by_its_folder(plugin: str, root: str | None, expected: str) -> None:
    assert folder_name(plugin, root) == expected


def test_channels_have_the_given_names_ranges_and_files() -> None:
    section = DataSection(name="coco", channels={"red": "_r", "nir": "_n"}, range=[0, 100])
    given = section.given_channels
    assert (given.names, given.files, given.range) == (("red", "nir"), ("_r", "_n"), ((0, 100), (0, 100)))


@pytest.mark.parametrize(
    ("keys", "facts"),
    [
        ({"multi_scale": [32, 64]}, "data.multi_scale: .* data.image_size, which is missing"),
        ({"final_phase": {"start": 0.5, "mosaik": 1}}, "'mosaik' .* Did you mean 'mosaic'"),
    ],
)
def test_keys_that_do_not_fit_are_errors(keys: dict[str, Any], facts: str) -> None:
    with pytest.raises(ConfigError, match=facts):
        configs.section("data", {"name": "scenes", **keys}, "test")
