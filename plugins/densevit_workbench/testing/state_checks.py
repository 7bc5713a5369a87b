"""Checks of construction and serialisation: state dict, pickling, seeds, options, registration."""

import copy
import inspect
import pickle
import typing
from typing import Any

import torch

from densevit import registry
from densevit.errors import DensevitError, PluginError
from densevit.registry import plugin_options as signature
from densevit.registry.groups import POSITIONAL_ARGUMENTS
from densevit_workbench.testing.check_results import Failure, check, described, require
from densevit_workbench.testing.fixtures import BackboneFixture, Fixture, require_equal
from densevit_workbench.testing.gradients import listed, perturb

UNKNOWN_OPTION = "no_such_option"
ROUNDING = 1e-6


@check("a state dict that restores it", "create the same parameters and buffers in every instance")
def state_dict(fixture: Fixture) -> None:
    """The state dict of a trained module, loaded into a new one, gives the same outputs."""
    module = fixture.build(seed=1)
    perturb(module)
    fixture.training_loss(module)  # updates running statistics
    expected = fixture.run(module)
    restored = fixture.build(seed=2)
    restored.load_state_dict(copy.deepcopy(module.state_dict()))
    require_equal(
        fixture.run(restored),
        expected,
        "{name} that differs by {difference} after loading the state dict into a new module",
        "store tensors as nn.Parameter or with register_buffer(name, tensor); a plain attribute is not saved",
        tolerance=ROUNDING,
        wanted="the same outputs: the state dict must be complete",
    )


@check("copies that work", "store only picklable objects in self")
def pickling(fixture: Fixture) -> None:
    """pickle and copy.deepcopy give a module with the same outputs."""
    module = fixture.shared()
    expected = fixture.run(module)
    ways = {"pickle": lambda: pickle.loads(pickle.dumps(module)), "copy.deepcopy": lambda: copy.deepcopy(module)}
    for way, duplicate in ways.items():
        try:
            copied = duplicate()
        except Exception as error:
            raise Failure(
                f"{described(error)} from {way}",
                "a copy: worker processes and weight averaging copy modules",
                "store no lambda, local function, local class or open file in self; define functions and classes at "
                "the top level of a module",
            ) from None
        require_equal(
            fixture.run(copied),
            expected,
            f"{{name}} that differs by {{difference}} in a copy by {way}",
            "let __getstate__ and __deepcopy__ copy all that forward needs",
            tolerance=ROUNDING,
        )


@check("the same weights from the same seed", "use torch's random numbers only")
def seeding(fixture: Fixture) -> None:
    """Two instances built from one seed are equal."""
    first, second = fixture.build(seed=3).state_dict(), fixture.build(seed=3).state_dict()
    differing = [key for key in first if key not in second or not torch.equal(first[key], second[key])]
    require(
        not differing and first.keys() == second.keys(),
        f"two instances from torch.manual_seed(3) that differ in {', '.join(differing[:3]) or 'their keys'}",
        "equal instances",
        "use torch's random numbers only, and leave no tensor as torch.empty",
    )


@check("validated options", "list the options with type and default in the constructor")
def options(fixture: Fixture) -> str:
    """The constructor's options are annotated, defaults match their types, and an unknown option is an error."""
    plugin, core_arguments = fixture.plugin, POSITIONAL_ARGUMENTS[fixture.group]
    try:
        annotations = typing.get_type_hints(plugin.__init__)
    except Exception as error:
        raise Failure(
            f"annotations that do not resolve: {described(error)}",
            "types that exist at run time",
            "import them at the top of the module, not under `if TYPE_CHECKING`",
        ) from None
    parameters = signature.parameters_of(plugin, core_arguments, plugin.__name__)[0].values()
    bare = [p.name for p in parameters if p.name not in annotations]
    require(
        not bare,
        f"no annotation for {', '.join(bare)}",
        "a type for each option: `width: int = 64`, `kind: Literal['a', 'b'] = 'a'`",
        "annotate the constructor, so that `width: wide` in a config is an error",
    )
    missing = [p.name for p in parameters if p.default is p.empty]
    required = {name: fixture.options.get(name) for name in missing if name in fixture.options}
    for parameter in parameters:
        if parameter.default is not parameter.empty:
            _require_valid_default(plugin, core_arguments, parameter, required)
    _require_unknown_option_fails(fixture, core_arguments, required)
    return f"every config has to set {', '.join(missing)}" if missing else ""


def _require_valid_default(
    plugin: type, core_arguments: tuple[str, ...], parameter: inspect.Parameter, required: dict[str, Any]
) -> None:
    try:
        signature.check(
            plugin, core_arguments, plugin.__name__, {**required, parameter.name: parameter.default}, "option"
        )
    except signature.OptionError as error:
        if error.key == f"option.{parameter.name}":
            raise Failure(
                f"the default {parameter.name} = {parameter.default!r}, where {error}",
                "a default that matches its annotation",
                f"correct the annotation of {parameter.name}, or the default",
            ) from None


def _require_unknown_option_fails(fixture: Fixture, core_arguments: tuple[str, ...], required: dict[str, Any]) -> None:
    """The signature rejects an unknown key, or a constructor with **kwargs does."""
    plugin = fixture.plugin
    try:
        signature.check(plugin, core_arguments, plugin.__name__, {**required, UNKNOWN_OPTION: 1}, "option")
        fixture.build_with(**{UNKNOWN_OPTION: 1})
    except (TypeError, ValueError):
        return
    keywords = inspect.getfullargspec(plugin).varkw or "options"
    raise Failure(
        f"{UNKNOWN_OPTION}=1 accepted by **{keywords}",
        "an error for an unknown option",
        f"list the options in the signature; if **{keywords} stays, raise a ValueError for unknown keys",
    )


@check("a class that the registry finds", "see densevit/interfaces/ and the docs of custom backbones and heads")
def registration(fixture: Fixture) -> str:
    """The registry finds the class and its docstring."""
    plugin = fixture.plugin
    path = f"{plugin.__module__}:{plugin.__qualname__}"
    try:
        loaded = registry.load(fixture.group, path)
    except PluginError as error:
        raise Failure(
            f"a class that cannot be loaded by name: {str(error).rstrip('.')}",
            f"`name: {path}` in a config to find it",
            "define the class at the top level of an importable module, not in a function",
        ) from None
    require(loaded is plugin, f"another class under {path}", "the class of the factory", "give each class its own name")
    require(
        (plugin.__dict__.get("__doc__") or "").strip(),
        "no docstring",
        "a docstring, whose first line `densevit plugins` shows",
        "write a docstring below the class line",
    )
    for (group, _), entry in sorted(registry.scan().plugins.items()):
        if group == fixture.group and (entry.value == path or _loads(entry, plugin)):
            return f"found as {entry.name!r}, from {entry.origin}"
    return f"no entry point; `name: {path}` finds it"


def _loads(entry: registry.Plugin, plugin: type) -> bool:
    """Whether an entry point loads the plugin. Imports the plugin's top-level package only."""
    module, _, attribute = entry.value.partition(":")
    if module.split(".")[0] != plugin.__module__.split(".")[0] or attribute != plugin.__qualname__:
        return False
    try:
        return registry.load(entry.group, entry.name) is plugin
    except DensevitError:
        return False


@check("every parameter in one group", "return lists of parameters")
def parameter_depths(fixture: BackboneFixture) -> str:
    """parameter_depths() holds every parameter once."""
    backbone = fixture.shared()
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    depths = backbone.parameter_depths()
    grouped = [id(parameter) for group in depths for parameter in group]
    missing = [name for key, name in names.items() if key not in grouped]
    repeated = [names[key] for key in names if grouped.count(key) > 1]
    foreign = sum(key not in names for key in grouped)
    problems = {
        f"{listed(missing)} in no group": missing,
        f"{listed(repeated)} in more than one place": repeated,
        f"{foreign} parameters that do not belong to the backbone": foreign,
    }
    require(
        not any(problems.values()),
        "; ".join(problem for problem, affected in problems.items() if affected),
        "every parameter in exactly one group, input first",
        "add the missing ones, or remove parameter_depths: the default makes one group per child module",
    )
    if len(depths) > 1:
        return ""
    return (
        "1 depth: optim.layer_decay has no effect, and backbone.freeze=1 freezes all; override parameter_depths to use "
        "them"
    )
