"""A name that a file gives stays one in copies, sections and options, so that it is not imported without trust."""

import copy
import pickle

from densevit.config import yaml_io
from densevit.config.data_schema import DataSection
from densevit.config.model_schema import BackboneSection, EvaluationSection, HeadSection
from densevit.config.training_schema import OptimSection
from densevit.config.values import PluginSection
from densevit.interfaces import Backbone
from densevit.registry.options import check
from densevit.registry.trust import NameInFile


def test_name_in_a_file_stays_one():
    name = NameInFile("a.b:C", "file", False)
    for same in (copy.copy(name), copy.deepcopy(name), pickle.loads(pickle.dumps(name))):
        assert same == "a.b:C" and (same.file, same.trusted) == ("file", False)
    assert yaml_io.write({"name": name}) == "name: a.b:C\n"


def test_validation_of_a_section_keeps_names_in_files():
    name = NameInFile("a.b:C", "file", False)
    for kind in (BackboneSection, DataSection, EvaluationSection, HeadSection, OptimSection, PluginSection):
        section = kind.model_validate({"name": name, **({"lr": 1.0} if kind is OptimSection else {})})
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
