"""Classes, instances and partials stand wherever a config names a plugin, and are written as `module:Class`."""

import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

import pytest

from densevit import config as configs
from densevit.config import Config, yaml_io
from densevit.config.key_types import parts
from densevit.config.values import OpenSection, Section
from tests.inference.own_parts import Net


def places(annotation: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all sections of plugins in the schema: ("heads", "x", "neck")."""
    for part in parts(annotation):
        inner = get_args(part)
        if get_origin(part) is dict:
            yield from places(inner[1], (*path, "x"))
        elif get_origin(part) is tuple:
            yield from places(inner[0], (*path, 0))
        elif isinstance(part, type) and issubclass(part, OpenSection | Section):
            if issubclass(part, OpenSection) and "name" in part.model_fields:
                yield path
            for key, field in part.model_fields.items():
                yield from places(Annotated[(field.annotation, None, *field.metadata)], (*path, key))


def value_at(values: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        values = values[key] if isinstance(values, Mapping | tuple) else getattr(values, key)
    return values


PLACES = sorted({path for path in places(Config) if path[0] != "optim" or len(path) == 1}, key=str)  # not the schedule


def test_the_schema_has_the_places_of_plugins():
    expected = {("backbone",), ("heads", "x"), ("heads", "x", "neck"), ("heads", "x", "evaluation"), ("data",)}
    expected |= {("data", "train"), ("data", "val"), ("data", "transforms"), ("method",), ("optim",)}
    assert expected | {("trainer", "callbacks", 0), ("trainer", "loggers", 0)} <= {*PLACES}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("plugin", [Net, Net(4), functools.partial(Net, width=4)], ids=["class", "instance", "partial"])
@pytest.mark.parametrize("path", PLACES, ids=str)
def test_objects_stand_wherever_a_name_stands(path, plugin, named):
    values: Any = {"backbone": {"name": "b"}, "heads": {"x": {"name": "h"}}, "data": {"name": "d"}}
    values["trainer"] = {"max_steps": 1, "callbacks": ({"name": "c"},), "loggers": ({"name": "l"},)}
    section = values
    for key in path[:-1]:
        section[key] = section = [*section[key]] if isinstance(section[key], tuple) else section.get(key, {})
    section[path[-1]] = {"name": plugin} if named else plugin
    config = configs.from_mapping(values)
    name = value_at(config, (*path, "name"))
    assert name == "tests.inference.own_parts:Net" and name.plugin is Net
    assert name.instance is (plugin if isinstance(plugin, Net) else None)
    assert value_at(config, path).options == ({} if plugin is Net else {"width": 4})
    assert configs.from_file(yaml_io.parse(configs.dump(config), "config"), "config") == config
