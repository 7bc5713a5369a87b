"""Checks of what a module keeps and how it is built: state, pickling, seeds, options, registration."""

import copy
import inspect
import pickle
import typing
from typing import Any

import torch

from densevit import options, registry
from densevit.errors import DensevitError, PluginError
from densevit.interfaces import Backbone
from densevit.testing.gradients import wake
from densevit.testing.results import Failure, described
from densevit.testing.subjects import BackboneSubject, Subject, constructor, worst

NO_OPTION = "no_such_option"
ROUNDING = 1e-6


def state_dict(subject: Subject) -> None:
    """The state of a trained module, loaded into a fresh one, gives the same outputs."""
    module = subject.build(seed=1)
    wake(module)
    subject.training_loss(module)  # running statistics move
    expected = subject.run(module)
    fresh = subject.build(seed=2)
    fresh.load_state_dict(copy.deepcopy(module.state_dict()))
    name, far = worst(subject.run(fresh), expected)
    if far > ROUNDING:
        raise Failure(
            f"{name} that differs by {far:.2g} of the largest value once the state is loaded into a fresh module",
            "the same: all that a run depends on is in the state",
            "keep tensors as nn.Parameter, or with register_buffer(name, tensor); a plain attribute is not saved",
        )


def pickling(subject: Subject) -> None:
    """pickle and copy.deepcopy give a module that computes the same."""
    module = subject.shared()
    expected = subject.run(module)
    ways = {"pickle": lambda: pickle.loads(pickle.dumps(module)), "copy.deepcopy": lambda: copy.deepcopy(module)}
    for way, duplicate in ways.items():
        try:
            copied = duplicate()
        except Exception as error:
            raise Failure(
                f"{described(error)} from {way}",
                "a copy: processes and weight averages need one",
                "keep no lambda, local function or local class in self, and no open file: functions and classes stand "
                "at the top of a module",
            ) from None
        name, far = worst(subject.run(copied), expected)
        if far > ROUNDING:
            raise Failure(
                f"{name} that differs by {far:.2g} of the largest value in a copy by {way}",
                "the same",
                "let __getstate__ and __deepcopy__ leave nothing out that forward needs",
            )


def seeding(subject: Subject) -> None:
    """Two built under one seed are equal."""
    first, second = subject.build(seed=3).state_dict(), subject.build(seed=3).state_dict()
    differing = [key for key in first if key not in second or not torch.equal(first[key], second[key])]
    if differing or first.keys() != second.keys():
        raise Failure(
            f"two builds under torch.manual_seed(3) that differ in {', '.join(differing[:3]) or 'their keys'}",
            "equal ones",
            "draw from torch's random numbers only, and leave no tensor as torch.empty",
        )


def option_checking(subject: Subject) -> str | None:
    """The constructor's options are annotated, their defaults fit, and one that does not exist is refused."""
    plugin, given = subject.plugin, options.GIVEN[subject.group]
    try:
        annotations = typing.get_type_hints(plugin.__init__)
    except Exception as error:
        raise Failure(
            f"annotations that do not resolve: {described(error)}",
            "types that exist when the module runs",
            "import them at the top, not under `if TYPE_CHECKING`",
        ) from None
    own = options.parameters_of(plugin, given, plugin.__name__)[0].values()
    bare = [p.name for p in own if p.name not in annotations]
    if bare:
        raise Failure(
            f"no annotation for {', '.join(bare)}",
            "a type for each option: `width: int = 64`, `kind: Literal['a', 'b'] = 'a'`",
            "annotate the constructor, so that `width: wide` in a config is refused",
        )
    needed = {p.name: subject.options.get(p.name) for p in own if p.default is p.empty and p.name in subject.options}
    for parameter in own:
        if parameter.default is not parameter.empty:
            _check_default(plugin, given, parameter, needed)
    _check_refusal(subject, plugin, given, needed)
    missing = [p.name for p in own if p.default is p.empty]
    return f"every config has to give {', '.join(missing)}" if missing else None


def _check_default(plugin: type, given: tuple[str, ...], parameter: inspect.Parameter, needed: dict[str, Any]) -> None:
    try:
        options.check(plugin, given, plugin.__name__, {**needed, parameter.name: parameter.default}, "option")
    except options.OptionError as error:
        if error.key == f"option.{parameter.name}":
            raise Failure(
                f"{parameter.name} = {parameter.default!r}, its default, where {error}",
                "a default that its own annotation allows",
                f"correct the annotation of {parameter.name}, or the default",
            ) from None


def _check_refusal(subject: Subject, plugin: type, given: tuple[str, ...], needed: dict[str, Any]) -> None:
    """A mistyped key is refused by the signature, or by the constructor where it takes **kwargs."""
    try:
        options.check(plugin, given, plugin.__name__, {**needed, NO_OPTION: 1}, "option")
        subject.build_with(**{NO_OPTION: 1})
    except (TypeError, ValueError):
        return
    keywords = next((p.name for p in constructor(plugin) if p.kind is p.VAR_KEYWORD), "options")
    raise Failure(
        f"{NO_OPTION}=1 taken by **{keywords} without a word",
        "an error for an option that does not exist",
        f"list the options in the signature; where **{keywords} stays, raise a ValueError for unknown keys",
    )


def registration(subject: Subject) -> str:
    """The registry finds the class and what it says of itself."""
    plugin = subject.plugin
    path = f"{plugin.__module__}:{plugin.__qualname__}"
    try:
        found = registry.load(subject.group, path)
    except PluginError as error:
        raise Failure(
            f"the class cannot be loaded by name: {str(error).rstrip('.')}",
            f"`name: {path}` in a config to find it",
            "put the class at the top of an importable module, not into a function",
        ) from None
    if found is not plugin:
        raise Failure(
            f"another class under {path}", "the class that the factory builds", "give each class a name of its own"
        )
    documentation = plugin.__dict__.get("__doc__") or ""
    if not documentation.strip():
        raise Failure(
            "no docstring",
            "a first line that says what it is: `densevit plugins` shows it",
            "write a docstring below the class line",
        )
    for entry in _entries(subject.group):
        if entry.value == path or _loads(entry, plugin):
            return f"found as {entry.name!r}, from {entry.origin}"
    return f"no entry point; `name: {path}` finds it"


def _entries(group: str) -> list[registry.Plugin]:
    return [plugin for (where, _), plugin in sorted(registry.scan().plugins.items()) if where == group]


def _loads(entry: registry.Plugin, plugin: type) -> bool:
    """Whether an entry point of the plugin's own top package leads to it; none of another package is imported."""
    if entry.value.split(".")[0].split(":")[0] != plugin.__module__.split(".")[0]:
        return False
    if entry.value.rpartition(":")[2] != plugin.__qualname__:
        return False
    try:
        return registry.load(entry.group, entry.name) is plugin
    except DensevitError:
        return False


def parameter_depths(subject: BackboneSubject) -> None:
    """parameter_depths holds every parameter once."""
    backbone: Backbone = subject.shared()
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    seen = [id(parameter) for group in backbone.parameter_depths() for parameter in group]
    missing = [name for key, name in names.items() if key not in seen]
    twice = [names[key] for key in names if seen.count(key) > 1]
    foreign = sum(key not in names for key in seen)
    found = [f"{', '.join(missing[:6])} in no group"] if missing else []
    found += [f"{', '.join(twice[:6])} in more than one place"] if twice else []
    found += [f"{foreign} parameters that are not the backbone's"] if foreign else []
    if found:
        raise Failure(
            "; ".join(found),
            "every parameter in exactly one group, input first",
            "list what is missing, or leave parameter_depths out: the default makes a group of each child module",
        )
