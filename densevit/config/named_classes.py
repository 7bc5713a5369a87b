"""Schedules, loggers and callbacks that a config names as `module:Class`, with options."""

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from densevit import registry
from densevit.config.training_schema import OptimSection
from densevit.config.values import PluginSection
from densevit.errors import PluginError
from densevit.registry import options as signatures

BUILT_IN_LOGGERS = ("csv", "tensorboard")
_TRACKERS = {  # short names of Lightning's loggers, whose packages have the same names
    "wandb": "pytorch_lightning.loggers:WandbLogger",
    "mlflow": "pytorch_lightning.loggers:MLFlowLogger",
}
_BASES = {
    "callback": "pytorch_lightning:Callback",
    "logger": "pytorch_lightning.loggers:Logger",
}
_FORMS = {
    "callback": "module:Class, as in pytorch_lightning.callbacks:EarlyStopping",
    "logger": "csv, tensorboard, wandb, mlflow or module:Class, as in pytorch_lightning.loggers:WandbLogger",
}


def load(noun: str, name: str) -> Any:
    """Imports a class, or a function for "schedule". noun: "schedule", "logger" or "callback".

    Raises PluginError if it cannot be imported or is of another kind.
    """
    if noun == "logger":
        name = _TRACKERS.get(name, name)
    if ":" not in name:
        raise PluginError(f"There is no {noun} {name!r}. Write {_FORMS[noun]}.")
    found = registry.import_object(noun, name)
    if noun == "schedule":
        if not callable(found) or (isinstance(found, type) and "__call__" not in dir(found)):
            raise PluginError(
                f"The schedule {name!r} cannot be called with a step. Fix: write a function (step, steps, options) "
                "that returns the factor on the learning rate, or a class with such a __call__."
            )
        return found
    home, _, kind = _BASES[noun].partition(":")
    base = getattr(importlib.import_module(home), kind)
    if not (isinstance(found, type) and issubclass(found, base)):
        what = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise PluginError(f"The {noun} {name!r} is {what}, which is not a {_BASES[noun].replace(':', '.')}.")
    return found


def schedule(section: OptimSection) -> Callable[[int, int], float] | None:
    """The schedule, as a function (step, steps) -> factor; None for a built-in one."""
    if isinstance(section.schedule, str):
        return None
    name, where = section.schedule.name, "optim.schedule"
    found = load("schedule", name)
    given = () if isinstance(found, type) else ("step", "steps")
    options = signatures.check(found, given, name, section.schedule.options, where)
    if isinstance(found, type):
        return registry.construct(found, name, options=options, where=where)
    return lambda step, steps: found(step, steps, **options)


def check_callback(section: PluginSection, where: str) -> dict[str, Any]:
    """The options of a callback. Raises PluginError if it cannot be imported, and OptionError for an invalid option."""
    return signatures.check(load("callback", section.name), (), section.name, section.options, where)


def check_logger(section: PluginSection, where: str, folder: str = ".") -> dict[str, Any]:
    """The options of a logger. Raises the same errors as `check_callback`.

    folder: the run folder, passed as `save_dir` to a constructor that has this parameter unless it is given.
    """
    if section.name in BUILT_IN_LOGGERS:
        signatures.check(lambda: None, (), section.name, section.options, where)  # it has none
        if section.name == "tensorboard" and not any(map(importlib.util.find_spec, ("tensorboard", "tensorboardX"))):
            raise PluginError(
                "The logger 'tensorboard' needs a package that is not installed. Try `pip install tensorboard`."
            )
        return {}
    found = load("logger", section.name)
    parameters, _ = signatures.parameters_of(found, (), section.name)
    options = {"save_dir": folder} if "save_dir" in parameters else {}
    if section.name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):  # MLflow 3 refuses folders
        options["tracking_uri"] = f"sqlite:///{Path(folder).absolute() / 'mlflow.db'}"
    return signatures.check(found, (), section.name, options | section.options, where)
