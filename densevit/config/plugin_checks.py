"""Checks that the plugins of a config exist and accept their options. Imports the plugins, but builds nothing."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from densevit import registry
from densevit.config import initial_weights, named_classes
from densevit.config.config_layers import Key
from densevit.config.data_schema import DataSection
from densevit.config.model_schema import EvaluationSection, HeadSection
from densevit.config.schema import Config
from densevit.config.schema_validation import check_head_names
from densevit.config.sections import data_options
from densevit.config.training_schema import OptimSection
from densevit.config.values import OpenSection
from densevit.constructor_call import signature
from densevit.errors import ConfigError, PluginError
from densevit.registry.plugin_options import OptionError, check


def check_plugins(config: Config) -> None:
    """Checks the plugins of a run. `registry.create` converts the options later, when it builds a plugin.

    Raises ConfigError with a line for each invalid key, with its file or override.
    """
    check_head_names(config)
    initial_weights.check_backbone(config)
    _raise([*_model_problems(config), *_data_problems(config), *_training_problems(config)])


def check_evaluation_plugins(config: Config) -> None:
    """`check_plugins` without plugins for training only."""
    check_head_names(config)
    _raise([*_model_problems(config), *_data_problems(config)])


def _raise(lines: Sequence[str]) -> None:
    if lines:
        raise ConfigError("\n".join(dict.fromkeys(lines)))


def _model_problems(config: Config) -> Iterator[str]:
    """A line for each invalid key of the backbone, necks, heads and evaluators."""
    yield from _section_problems(config, "backbone", "backbones", config.backbone.name, config.backbone)
    for name, head in config.heads.items():
        where = f"heads.{name}"
        yield from _section_problems(config, where, "heads", head.name, head)
        if head.neck is not None:
            yield from _section_problems(config, f"{where}.neck", "necks", head.neck.name, head.neck)
        if head.evaluation is not None:
            yield from _evaluator_problems(config, f"{where}.evaluation", head, head.evaluation)


def _evaluator_problems(config: Config, where: str, head: HeadSection, evaluation: EvaluationSection) -> Iterator[str]:
    try:
        name = evaluation.name or str(getattr(registry.load("heads", head.name), "task", ""))
    except PluginError:  # the head's line reports it
        return
    if evaluation.name or evaluation.options or name in registry.find("evaluators"):
        yield from _section_problems(config, where, "evaluators", name, evaluation)


def _data_problems(config: Config) -> Iterator[str]:
    """A line for each invalid key of the data set and of its transforms."""
    data = config.data
    yield from (  # `train` and `val` are checked when they are built
        _section_problems(config, "data", "datasets", data.name, data)
        if None in (data.train, data.val)
        else _problems(config, "data", check, lambda: None, (), data.name, data.options, "data")
    )
    sections = {"data.transforms": data.transforms}
    if data.final_phase is not None and "transforms" in data.final_phase.options:
        sections["data.final_phase.transforms"] = data.in_final_phase.transforms
    for where, section in sections.items():
        yield from _section_problems(config, where, "transforms", section.name, section)


def _training_problems(config: Config) -> Iterator[str]:
    """A line for each invalid key of LoRA, the method, the optimiser, callbacks and loggers."""
    if config.backbone.lora is not None and (missing := missing_peft()):
        yield _line(config, ("backbone", "lora"), missing)
    yield from _section_problems(config, "method", "methods", config.method.name, config.method)
    yield from _problems(config, "method", _check_has_heads, config)
    yield from _problems(config, "optim", check_optimizer, config.optim)
    yield from _problems(config, "optim.schedule", named_classes.schedule, config.optim)
    for noun, sections in (("callback", config.trainer.callbacks), ("logger", config.trainer.loggers or ())):
        for index, named in enumerate(sections):
            where = f"trainer.{noun}s.{index}"
            yield from _problems(config, where, named_classes.check, noun, named, where)


def check_optimizer(section: OptimSection) -> None:
    """Raises PluginError if the import of the optimiser fails, and OptionError for an invalid option or a weight decay
    that its constructor does not take."""
    _check_options("optim", "optimizers", section.name, section)
    parameters = signature(registry.load("optimizers", section.name)).parameters.values()
    if section.weight_decay and not any(p.name == "weight_decay" or p.kind is p.VAR_KEYWORD for p in parameters):
        raise OptionError(
            "optim.weight_decay",
            f"is {section.weight_decay:g}, but {section.name!r} has no weight decay. Fix: set optim.weight_decay=0.",
        )


def missing_peft() -> str:
    """The error of `backbone.lora` if peft is not installed, else ""."""
    if importlib.util.find_spec("peft") is not None:
        return ""
    return (
        "backbone.lora: needs peft, which is not installed. Fix: `pip install -e '.[lora]'` in densevit's clone, or "
        "leave out backbone.lora."
    )


def _check_has_heads(config: Config) -> None:
    """Raises OptionError for a method that trains heads in a config without heads."""
    if not config.heads and registry.load("methods", config.method.name).needs_heads:
        raise OptionError(
            "heads",
            f"is empty; the method {config.method.name!r} trains heads. Fix: add a head, or set a method that trains "
            "the backbone alone.",
        )


def _section_problems(config: Config, where: str, group: str, name: str, section: OpenSection) -> list[str]:
    """A line for each invalid option of a plugin."""
    return _problems(config, where, _check_options, where, group, name, section)


def _check_options(where: str, group: str, name: str, section: OpenSection) -> None:
    options = data_options(section) if isinstance(section, DataSection) else section.options
    registry.check_options(group, name, options, where, reserved=type(section).model_fields)


def _problems(config: Config, where: str, check: Callable[..., Any], *arguments: Any) -> list[str]:
    """A line for each PluginError from a check of the section `where`."""
    try:
        check(*arguments)
    except OptionError as error:
        return [_line(config, tuple(option.key.split(".")), str(option)) for option in (error, *error.further)]
    except PluginError as error:
        return [_line(config, (*where.split("."), "name"), f"{where}.name: {error}")]
    return []


def _line(config: Config, key: Key, message: str) -> str:
    """The message, prefixed with the file or override that sets the key."""
    source = config._layer.source_of(key)
    return f"{source}: {message}" if source else message
