"""Names of heads are exact and known, in every public argument that takes them."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import densevit
from densevit.errors import ConfigError, head_names
from densevit.model import DenseModel, InferenceModel
from tests.small_models import FourMaps

SEQUENCES, MAPPINGS = ("heads", "names"), ("head_targets", "necks", "loss_weights", "references", "evaluators")
NAMES = ("head", *SEQUENCES, *MAPPINGS, "mappings", "outputs", "threshold", "classes")
OTHERS = {  # arguments that do not name heads of a model
    "BatchPredictor.__init__": ("threshold",),  # `predict` checks it
    "CheckpointLayout.__init__": ("classes",),
    "DenseModel.__init__": ("heads",),  # gives the names
    "DenseModel.losses_of": ("outputs",),  # may be those of a model with more heads
    "Result.__init__": ("classes",),
    **dict.fromkeys(("Result.draw", "Result.save", "Result.show", "prelabel"), ("threshold",)),  # a number
    **dict.fromkeys(("Result.filter", "create_evaluator", "create_head", "evaluate"), ("classes",)),
    "create_model": ("heads",),  # gives the names
    "benchmark": ("heads",),  # plugins
    "export": ("threshold",),  # in tests/export
}


PLUGINS = (densevit.Head, densevit.DenseHead, densevit.Evaluator, densevit.TargetType)


def _public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions of `densevit`, and the methods of its classes and of `InferenceModel`, without plugins' bases."""
    public = {name: getattr(densevit, name) for name in densevit.__all__} | {"InferenceModel": InferenceModel}
    for name, value in public.items():
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value) and value not in PLUGINS:
            for key, method in inspect.getmembers(value, inspect.isfunction):
                if method.__module__.startswith("densevit") and (key[0] != "_" or key == "__init__"):
                    yield f"{name}.{key}", method


@functools.cache
def public_functions() -> dict[str, Callable[..., Any]]:
    """They are found when a test runs, because some of their modules take seconds to import."""
    return dict(_public_functions())


def arguments() -> list[tuple[str, str]]:
    return [
        (name, parameter)
        for name, function in public_functions().items()
        for parameter in inspect.signature(function).parameters
        if parameter in NAMES and parameter not in OTHERS.get(name, ())
    ]


def model_of() -> DenseModel:
    heads = {name: {"name": "linear_depth", "bins": 2} for name in ("depth", "depth_far")}
    return densevit.create_model(FourMaps(), heads=heads, classes={})


def called(name: str, **arguments: Any) -> Any:
    """The result of a function with these arguments, and small ones for those that have no default."""
    model, images = model_of().eval(), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    size = {"size": (64, 64), "original_size": (64, 64)}
    batch = {"images": images, "padding_mask": torch.zeros(1, 64, 64, dtype=torch.bool), "targets": [size]}
    known = {
        "self": model, "model": model, "backbone": model.backbone, "heads": dict(model.heads.items()), "batch": batch,
        "images": images, "targets": [size], "outputs": model(batch), "features": model.features(batch),
        "padding_mask": batch["padding_mask"], "predictions": {"depth": {}, "depth_far": {}}, "classes": {},
        "image": images[0].numpy(), "size": (64, 64),
    }  # fmt: skip
    if name == "create_model":
        arguments["heads"] = {name: {"name": "linear_depth"} for name in model.heads}
    function = public_functions()[name]
    if name.endswith("__init__"):
        function = getattr(densevit, name.partition(".")[0])
    parameters = inspect.signature(function).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return function(**{**{key: known[key] for key in required if key not in arguments}, **arguments})


def test_an_unknown_name_is_an_error_with_the_names_of_the_heads(subtests: pytest.Subtests):
    for name, parameter in arguments():
        with subtests.test(name=name, parameter=parameter):
            check_unknown_name(name, parameter)


def check_unknown_name(name: str, parameter: str) -> None:
    value: Any = "dept" if parameter == "head" else ["dept"] if parameter in SEQUENCES else {"dept": 0.5}
    with pytest.raises(ConfigError, match=rf"{parameter} has the (key|name) 'dept', which .* 'depth'.* Known: depth"):
        called(name, **{parameter: value})


def test_the_walk_finds_the_arguments():
    assert {parameter for _, parameter in arguments()} == {*NAMES}
    for name, parameters in OTHERS.items():
        assert {*parameters} <= inspect.signature(public_functions()[name]).parameters.keys()


@pytest.mark.parametrize("names", ["depth", ["depth"], {"depth": 1}])
def test_a_text_is_one_name(names: Any):
    assert head_names(names, ["far", "depth"], "f: x") == ["depth"]
    assert [*called("DenseModel.with_heads", names=names).heads] == ["depth"]
    assert [*called("DenseModel.forward", heads=names)] == ["depth"]
    longer = called("DenseModel.with_heads", names="depth_far")
    assert [*longer.heads] == [*longer.classes] == [*longer.sections.heads] == ["depth_far"]
    assert called("DenseModel.encode", heads="depth").features


def test_names_are_in_the_order_of_the_heads_and_none_is_no_head():
    assert head_names(("b", "a", "b"), ["a", "c", "b"], "f: x") == ["a", "b"] and head_names((), ["a"], "f: x") == []
