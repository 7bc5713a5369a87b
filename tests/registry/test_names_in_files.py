"""A name that a file gives stays one in copies, sections and options, so that it is not imported without trust."""

import copy
import pickle
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from densevit import config as configs
from densevit.config import yaml_io
from densevit.interfaces import Backbone
from densevit.registry.options import check
from densevit.registry.trust import NameInFile


def test_name_in_a_file_stays_one():
    name = NameInFile("a.b:C", "file", False)
    for same in (copy.copy(name), copy.deepcopy(name), pickle.loads(pickle.dumps(name))):
        assert same == "a.b:C" and (same.file, same.trusted) == ("file", False)
    assert yaml_io.write({"name": name}) == "name: a.b:C\n"


def sections(kind: Any) -> Iterator[type[BaseModel]]:
    """All sections of a config, from its annotations."""
    for part in typing.get_args(kind):
        yield from sections(part)
    if isinstance(kind, type) and not isinstance(kind, types.GenericAlias) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            if field.annotation is not kind:
                yield from sections(field.annotation)


def test_validation_of_a_section_keeps_names_in_files():
    named = {kind for kind in sections(configs.Config) if "name" in kind.model_fields}
    assert {kind.__name__ for kind in named} == {
        "BackboneSection", "DataSection", "EvaluationSection", "HeadSection", "OptimSection", "PluginSection"
    }  # fmt: skip
    name = NameInFile("a.b:C", "file", False)
    for kind in named:
        section = kind.model_validate({"name": name, **({"lr": 1.0} if kind.__name__ == "OptimSection" else {})})
        for found in (section.name, section.model_dump()["name"], section.model_copy(deep=True).name):
            assert type(found) is NameInFile, kind


def test_validation_of_options_keeps_names_in_files():
    class Net(Backbone):
        def __init__(self, a: str, b: tuple[str, ...], c: dict[str, dict[str, str]], d: str | None = None) -> None: ...

    name = NameInFile("a.b:C", "file", False)
    given = {"a": name, "b": ["x", name], "c": {"y": {"name": name}}, "d": name}
    checked = check(Net, (), "net", given, "backbone")
    for found in (checked["a"], checked["b"][1], checked["c"]["y"]["name"], checked["d"]):
        assert type(found) is NameInFile
    assert checked["b"] == ("x", "a.b:C")
