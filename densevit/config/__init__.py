"""Configs: YAML files, `base:`, section files and dotted overrides, validated by one schema (`schema.py`).

User documentation: `docs/config.md`.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
from pydantic import BaseModel, ValidationError

from densevit import registry
from densevit.config import initial_weights, key_hints, layers, named_classes, yaml_io
from densevit.config.data_schema import DataSection
from densevit.config.model_schema import (
    BackboneSection,
    EvaluationSection,
    HeadSection,
    InferenceSection,
    ModelSections,
)
from densevit.config.schema import Config
from densevit.config.sources import BASE, OWN, Source, Sources
from densevit.config.training_schema import OptimSection, TrainerSection
from densevit.config.values import OpenSection, PluginSection, Section
from densevit.errors import ConfigError, PluginError, printable
from densevit.registry.options import OptionError, nearest, shown, takes, wanted, wrong_numbers
from densevit.registry.trust import modules_in, names_in_file

if TYPE_CHECKING:
    from densevit.model.architecture import Architecture
    from densevit.model.inference_options import Inference

__all__ = [
    "BackboneSection",
    "Config",
    "DataSection",
    "EvaluationSection",
    "HeadSection",
    "InferenceSection",
    "ModelSections",
    "OptimSection",
    "PluginSection",
    "TrainerSection",
    "backbone_section",
    "check_evaluation_overrides",
    "check_evaluation_plugins",
    "check_plugins",
    "data_options",
    "dump",
    "from_file",
    "from_mapping",
    "inference_with",
    "load",
    "load_or_section",
    "model_sections",
    "recipe_of",
    "section",
    "sections_of",
    "single_pass",
    "values_of_file",
    "with_overrides",
]


_LARGEST_IN_FILE = 2**20  # characters of a config in another file: PyYAML takes minutes for megabytes
_CLOSED: dict[str, type[BaseModel]] = {"optim": OptimSection, "trainer": TrainerSection, "inference": InferenceSection}


def load(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Loads a config from a file, a run folder, a shipped config's name or a mapping, with overrides such as
    `optim.lr=1e-4`.

    Raises ConfigError with one line for each invalid key or value. Does not check plugin options; see `check_plugins`.
    """
    if isinstance(source, Mapping):
        return from_mapping(source, "config", overrides)
    file = layers.source_of(yaml_io.find_file(str(source)))
    layer = layers.with_overrides(layers.read(Path(file.name), rank=file.rank), overrides)
    return _settled(_checked(layer.values, Sources({(): file, **layer.sources})))


def from_mapping(values: Mapping[str, Any], source: str = "config", overrides: Sequence[str] = ()) -> Config:
    """The config of a mapping, such as a parsed `dump`, merged over its `base` if it has one. source: the origin of the
    mapping, for messages."""
    layer = layers.with_overrides(layers.of_mapping(values, source), overrides)
    return _settled(_checked(layer.values, Sources({(): Source(source, OWN), **layer.sources})))


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A copy of a config with overrides such as `optim.lr=1e-4`, in which also values that were assigned in Python have
    the precedence of overrides (see `initial_weights`)."""
    if not overrides:
        return _settled(config.model_copy(deep=True))
    layer = layers.with_overrides(layers.Layer(config.model_dump(), dict(config._sources.by_key)), overrides)
    return _settled(_checked(layer.values, Sources(layer.sources, [*config.set_aside])))


def recipe_of(config: Config) -> Config | None:
    """The shipped recipe that a config changes, without the changes; None for other configs."""
    sources = config._sources.by_key.items()
    file = next((source.name for key, source in sources if source.rank == BASE and key[:1] != ("data",)), None)
    return None if file is None else load(file)


def values_of_file(text: str, source: str, trust: Collection[str] = (), run: Path | None = None) -> dict[str, Any]:
    """The values of a config in a file that may be from another person, such as the header of a model file.

    A `module:Class` in it is imported only if its module is in `trust` or in the config.yaml of the folder `run`.
    source: the file, for messages. Raises ConfigError for other YAML than a mapping, and for a text of megabytes.
    """
    if not isinstance(text, str) or len(text) > _LARGEST_IN_FILE:
        found = f"{len(text):,} characters" if isinstance(text, str) else f"a {type(text).__name__}"
        raise ConfigError(
            f"{source}: its config should be a text of at most {_LARGEST_IN_FILE:,} characters, not {found}."
        )
    values = yaml_io.parse(text, source)
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: its config should be keys and values, not a {type(values).__name__}.")
    file = None if run is None else run / "config.yaml"
    own = modules_in(layers.read(file).values) if file is not None and modules_in(values) and file.is_file() else set()
    return names_in_file(values, source, trust, own)


def from_file(values: Mapping[str, Any], source: str) -> Config:
    """The config of `values_of_file`, which is complete: it has no `base`, and no sections in other files."""
    return _checked(values, Sources({(): Source(source, OWN)}))


def section(name: str, values: Mapping[str, Any] | str | Path, source: str, overrides: Sequence[str] = ()) -> Any:
    """A single section, such as a `DataSection`. values: the keys of the section, or a section file. source: the origin
    of the values, for messages. overrides: `backbone.key=value`."""
    given = values if isinstance(values, Mapping) else {}
    files = [] if isinstance(values, Mapping) else [f"{name}={values}"]
    layer = layers.with_overrides(layers.Layer({name: dict(given)}), [*files, *overrides])
    sources = Sources({(): Source(source, OWN), **layer.sources})
    _check_numbers(layer.values, sources)
    fields: dict[str, Any] = {name: (Config.model_fields[name].annotation, ...)}
    kind = pydantic.create_model(name, __base__=Section, **fields)
    try:
        return getattr(kind.model_validate(layer.values), name)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, layer.values, sources))) from None


def load_or_section(path_or_name: str, name: str, source: str, overrides: Sequence[str] = ()) -> Any:
    """A config, or a single section from a section file, such as data/coco. source: see `section`."""
    file: Path | None = None
    try:
        file = yaml_io.find_file(path_or_name)
    except ConfigError as error:
        try:
            yaml_io.find_file(path_or_name, section=name)  # a shipped section by its bare name
        except ConfigError:
            raise error from None
    values = {} if file is None else yaml_io.read_file(file)
    if values.keys() & {"data", "heads", "base"}:
        return load(path_or_name, overrides)
    return section(name, path_or_name, source, overrides)


def backbone_section(values: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> BackboneSection:
    """A single backbone section, see `section`."""
    return section("backbone", values, source, overrides)


def model_sections(values: Mapping[str, Any], source: str) -> ModelSections:
    """The sections of a model without a training, with checked head names. source: the origin, for messages."""
    sources = Sources({(): Source(source, OWN)})
    _check_numbers(values, sources)
    try:
        sections = ModelSections.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, values, sources, ModelSections))) from None
    _check_head_names(sections, sources)
    return sections


def sections_of(architecture: "Architecture", data: Mapping[str, Any] | None = None) -> ModelSections:
    """The sections of a model without a config, from what it was built from. data: of its training."""
    values = asdict(architecture)
    heads = {name: _with_options(head) for name, head in values["heads"].items()}
    heads = {name: {**head, "neck": head["neck"] and _with_options(head["neck"])} for name, head in heads.items()}
    return model_sections({"backbone": _with_options(values["backbone"]), "heads": heads, "data": data}, "the model")


def _with_options(part: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a section, among them the plugin's options."""
    return {**part["options"], **{key: value for key, value in part.items() if key != "options"}}


def dump(config: Config | ModelSections, comments: Mapping[str, str] | None = None) -> str:
    """The complete config as YAML, which loads to an equal config. comments: derived facts, written at the end."""
    text = yaml_io.write(config.model_dump())
    if comments:
        facts = (printable(" ".join(f"# {name}: {fact}".split())) for name, fact in comments.items())
        text += "\n# Derived from the above:\n" + "".join(f"{fact}\n" for fact in facts)
    return text


def single_pass(config: Config | ModelSections) -> Config | ModelSections:
    """The config with the default inference options, of a model that predicts images in one pass."""
    heads = {name: head.model_copy(update={"inference": None}) for name, head in config.heads.items()}
    own = {"inference": InferenceSection()} if isinstance(config, Config) else {}
    return config.model_copy(update={"heads": heads, **own})


def inference_with(inference: "Inference", given: Mapping[str, Any], source: str) -> "Inference":
    """The options updated with the given keys of the section `inference`. source: their origin, for messages."""
    updated: InferenceSection = section("inference", {**asdict(inference), **given}, source)
    return updated.options


def check_plugins(config: Config) -> None:
    """Checks that all plugins exist and accept their options. Imports the plugins, but builds nothing.

    A run calls it once, before it reads data; `registry.create` converts the options when it builds a plugin.
    Raises ConfigError with a line for each invalid key, with its file or override.
    """
    wrong = [*_of_evaluation(config), *_of_training(config)]
    if wrong:
        raise ConfigError("\n".join(dict.fromkeys(wrong)))


def check_evaluation_plugins(config: Config) -> None:
    """Like `check_plugins`, without the plugins that only a training uses."""
    wrong = _of_evaluation(config)
    if wrong:
        raise ConfigError("\n".join(dict.fromkeys(wrong)))


def check_evaluation_overrides(overrides: Sequence[str]) -> None:
    """Raises ConfigError for overrides of the config, "section.key=value", that would change the model."""
    for override in overrides:
        section, *keys = override.split("=")[0].split(".")
        of_head = keys[1] if keys[1:] else ""
        if section in ("backbone", "weights", "optim") or (
            section == "heads" and of_head not in ("evaluation", "inference")
        ):
            raise ConfigError(
                f"{override}: a run is evaluated as it was trained. Allowed overrides are data.*, trainer.*, "
                "inference.*, heads.NAME.inference.* and heads.NAME.evaluation.*"
            )


def _of_evaluation(config: Config) -> list[str]:
    """A line for each invalid key of the model, its evaluators and the data."""
    data, wrong = config.data, list[str]()
    _check_head_names(config, config._sources)
    _check(config, "backbone", "backbones", config.backbone.name, config.backbone, wrong)
    for name, head in config.heads.items():
        where = f"heads.{name}"
        _check(config, where, "heads", head.name, head, wrong)
        if head.neck is not None:
            _check(config, f"{where}.neck", "necks", head.neck.name, head.neck, wrong)
        if head.evaluation is None:
            continue
        with _sourced(config, where, wrong):
            evaluator = head.evaluation.name or str(getattr(registry.load("heads", head.name), "task", ""))
            if head.evaluation.name or head.evaluation.options or evaluator in registry.find("evaluators"):
                _check(config, f"{where}.evaluation", "evaluators", evaluator, head.evaluation, wrong)
    _check(config, "data", "datasets", data.name, data, wrong)
    if not isinstance(data.recipe, str):
        with _sourced(config, "data.recipe", wrong):
            named_classes.recipe(data)
    final = data.in_final_phase
    if "recipe" in (data.final_phase.options if data.final_phase else ()) and not isinstance(final.recipe, str):
        with _sourced(config, "data.final_phase.recipe", wrong):
            named_classes.recipe(final, "data.final_phase.recipe")
    return wrong


def _of_training(config: Config) -> list[str]:
    """A line for each invalid key of the method, the optimiser, callbacks and loggers."""
    wrong = list[str]()
    if config.backbone.lora is not None and (missing := _missing_lora()):
        source = config._sources.of(("backbone", "lora"))
        wrong.append(f"{source}: {missing}" if source else missing)
    _check(config, "method", "methods", config.method.name, config.method, wrong)
    for name, probe in config.probes.items():
        _check(config, f"probes.{name}", "evaluators", probe.name or name, probe, wrong)
    with _sourced(config, "method", wrong):
        if not config.heads and registry.load("methods", config.method.name).needs_heads:
            wrong.append(
                f"{config._sources.of(('heads',))}: heads is empty; the method {config.method.name!r} trains heads. "
                "Fix: add a head, or set a method that trains the backbone alone."
            )
    with _sourced(config, "optim", wrong):
        named_classes.check_optimiser(config.optim)
    with _sourced(config, "optim.schedule", wrong):
        named_classes.schedule(config.optim)
    for index, named in enumerate(config.trainer.callbacks):
        with _sourced(config, f"trainer.callbacks.{index}", wrong):
            named_classes.check_callback(named, f"trainer.callbacks.{index}")
    for index, named in enumerate(config.trainer.loggers or ()):
        with _sourced(config, f"trainer.loggers.{index}", wrong):
            named_classes.check_logger(named, f"trainer.loggers.{index}")
    return wrong


def _missing_lora() -> str:
    from densevit.model.lora import missing_package  # late: it imports torch

    return missing_package()


def _check_head_names(config: Config | ModelSections, sources: Sources) -> None:
    """Raises ConfigError for a head name that is an attribute of torch.nn.ModuleDict, its container: `train`."""
    from torch import nn  # late: the plugins import it anyway

    for name, head in config.heads.items():
        containers = [nn.ModuleDict()] + ([nn.ParameterDict()] if head.weight == "learned" else [])
        if any(hasattr(container, name) for container in containers):
            raise ConfigError(
                f"{sources.of(('heads', name))}: heads.{name}: {name!r} cannot name a head, because "
                f"torch modules have an attribute of that name. Use another name, such as {name}_head."
            )


def _check(config: Config, where: str, group: str, name: str, section: OpenSection, wrong: list[str]) -> None:
    with _sourced(config, where, wrong):
        options = data_options(section) if isinstance(section, DataSection) else section.options
        registry.check_options(group, name, options, where, reserved=type(section).model_fields)


@contextmanager
def _sourced(config: Config, where: str, wrong: list[str]) -> Iterator[None]:
    """Adds a line with the file or override of the key to `wrong` for each PluginError of this section."""
    try:
        yield
    except OptionError as error:
        found = [(config._sources.of(tuple(one.key.split("."))), str(one)) for one in (error, *error.others)]
    except PluginError as error:
        found = [(config._sources.of((*where.split("."), "name")), f"{where}.name: {error}")]
    else:
        return
    wrong += [f"{source}: {message}" if source else message for source, message in found]


def data_options(section: DataSection) -> dict[str, Any]:
    """The options of the data set's constructor; with `image_size` if it has a parameter of that name."""
    given = section.image_size is not None and takes(registry.load("datasets", section.name), "image_size")
    return section.options | ({"image_size": section.image_size} if given else {})


def _check_numbers(values: Mapping[str, Any], sources: Sources) -> None:
    """Raises ConfigError for nan, infinity and too large numbers in any key."""
    wrong = [f"{sources.of(key)}: {'.'.join(key)} {problem}" for key, problem in wrong_numbers(values)]
    if wrong:
        raise ConfigError("\n".join(wrong[:5]))


def _checked(values: Mapping[str, Any], sources: Sources) -> Config:
    _check_numbers(values, sources)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, values, sources))) from None
    config._sources = sources
    return config


def _settled(config: Config) -> Config:
    initial_weights.settle(config)
    return config


def _lines(
    error: ValidationError, values: Mapping[str, Any], sources: Sources, top: type[BaseModel] = Config
) -> Iterator[str]:
    """One line for each invalid key: its source, the key, the error, and the nearest valid key or value."""
    problems, reported = error.errors(), set()
    for problem in problems:
        key, value = _lookup(problem["loc"], values)
        if problem["type"] in ("missing", "extra_forbidden"):
            key = (*_lookup(problem["loc"][:-1], values)[0], str(problem["loc"][-1]))
        if key in reported:
            continue
        reported.add(key)
        dotted = ".".join(key)
        match problem["type"]:
            case "extra_forbidden":
                closed = key[2] if key[0] == "heads" and len(key) > 3 else key[0]
                known = sorted(_CLOSED.get(closed, top).model_fields)
                section = f" of {'.'.join(key[:-1])}" if key[1:] else ""
                meant = "" if key[1:] else key_hints.hint(dotted, values.get(dotted))
                text = f"{dotted} is not a key{section}.{meant or nearest(key[-1], known)} Keys: {', '.join(known)}."
            case "missing":
                text = f"{dotted} is missing."
            case "value_error":
                text = f"{dotted}: {problem['msg'].removeprefix('Value error, ')}"
            case "model_type" | "dict_type" | "model_attributes_type":
                text = f"{dotted} should be a section of keys, not {shown(value)}."
            case "too_short":
                text = f"{dotted} is empty: give at least one value."
            case _:
                expected = wanted(other for other in problems if _lookup(other["loc"], values)[0] == key)
                hint = nearest(value, re.findall("'(.+?)'", expected)) if isinstance(value, str) else ""
                text = f"{dotted} should be {expected}, not {shown(value)}.{hint}"
        yield f"{sources.of(key)}: {text}"


def _lookup(location: tuple[int | str, ...], values: Mapping[str, Any]) -> tuple[tuple[str, ...], Any]:
    """The key of a pydantic location, without the names of union branches that pydantic appends, and its value."""
    key: list[str] = []
    value: Any = values
    for part in location:
        if isinstance(value, Mapping):
            inside = part in value
        else:
            inside = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if not inside:
            break
        key.append(str(part))
        value = value[part]
    return tuple(key), value
