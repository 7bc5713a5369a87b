"""densevit/config/values.py: types of values, and sections that cannot be changed."""

import copy
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from densevit import config
from densevit.config.values import as_tuple
from tests.config.test_key_types import FILE


def test_quoted_numbers_and_whole_floats_are_converted():
    loaded = config.load("mine.yaml", ["optim.lr='1e-4'", "trainer.max_steps=1e4", "trainer.precision=32"])
    assert (loaded.optim.lr, loaded.trainer.max_steps, loaded.trainer.precision) == (1e-4, 10000, "32")


def mappings(value: Any, key: str = "config") -> Iterator[tuple[str, Any]]:
    """All mappings in a config, by key."""
    if isinstance(value, BaseModel):
        for name, inner in value:
            yield from mappings(inner, f"{key}.{name}")
        yield f"{key}.model_extra", value.model_extra
    elif isinstance(value, Mapping):
        yield key, value
        for name, inner in value.items():
            yield from mappings(inner, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from mappings(inner, f"{key}.{index}")


CHANGES = {
    "setitem": lambda x: x.__setitem__("new", 1),
    "delitem": lambda x: x.__delitem__(next(iter(x), "new")),
    "update": lambda x: x.update(new=1),
    "setdefault": lambda x: x.setdefault("new", 1),
    "ior": lambda x: x.__ior__({"new": 1}),
    "pop": lambda x: x.pop(next(iter(x), "new"), None),
    "popitem": lambda x: x.popitem(),
    "clear": lambda x: x.clear(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_mapping_in_a_config_can_be_changed(change: str):
    loaded = config.load(copy.deepcopy(FILE))
    copies = (
        loaded,
        copy.deepcopy(loaded),
        loaded.model_copy(deep=True),
        loaded.model_copy(update={"heads": dict(loaded.heads)}),
        pickle.loads(pickle.dumps(loaded)),
        config.with_overrides(loaded, ["data.deep={a: {b: 1}}"]),
        config.from_mapping(loaded.model_dump()),
    )
    for each in copies:
        before = config.dump(each)
        checked = [key for key, mapping in mappings(each) if mapping is not None]
        assert {"config.heads", "config.data.channels", "config.optim.lr_factors"} <= {*checked}
        assert "config.trainer.callbacks.0.options.c" in checked and "config.backbone.model_args.deep.0" in checked
        for _, mapping in mappings(each):
            if mapping is not None:
                with pytest.raises(TypeError, match="immutable"):
                    CHANGES[change](mapping)
        assert config.dump(each) == before


def test_immutable_mappings_equal_dicts_and_are_written_as_yaml():
    loaded = config.load(copy.deepcopy(FILE))
    assert loaded.optim.lr_factors == {"heads.*": 10.0} and loaded.backbone.options["model_args"] == {
        "in_chans": 3,
        "deep": [{"a": 1}],
    }
    assert pickle.loads(pickle.dumps(loaded)) == copy.deepcopy(loaded) == loaded
    assert config.load(yaml.safe_load(config.dump(loaded))) == loaded
    assert config.yaml_io.write({"a": loaded.backbone.options}) == config.yaml_io.write(
        {"a": {"model": "resnet18", "model_args": {"in_chans": 3, "deep": [{"a": 1}]}}}
    )
    assert {**loaded.heads, "new": 1}["new"] == 1
    options = loaded.backbone.options["model_args"]
    assert yaml.safe_load(yaml.safe_dump(options)) == options  # outside of densevit


def test_lists_become_tuples():
    assert as_tuple([1, 2]) == (1, 2) and as_tuple(3) == 3
    section = config.DataSection(name="coco", display=["nir"], range=[0, 9])
    assert (section.display, section.range) == (("nir",), (0.0, 9.0))
