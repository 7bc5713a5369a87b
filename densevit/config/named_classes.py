"""Schedules, loggers and callbacks named in a config as `module:Class`, with options."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from densevit import registry
from densevit.config.training_schema import OptimSection
from densevit.config.values import PluginSection
from densevit.errors import PluginError
from densevit.registry import plugin_options as signatures

BUILT_IN_LOGGERS = ("csv", "tensorboard")
_TRACKERS = {  # short names of Lightning's loggers, which are also their packages' names
    "wandb": "pytorch_lightning.loggers:WandbLogger",
    "mlflow": "pytorch_lightning.loggers:MLFlowLogger",
}
_RUN_NAMES = {"wandb": ("name",), "mlflow": ("run_name",)}  # the option that names a run
_LIGHTNING = ("pytorch_lightning.", "lightning.pytorch.", "lightning_fabric.", "lightning.fabric.")  # the same classes
_BASES = {"callback": "pytorch_lightning.Callback", "logger": "pytorch_lightning.loggers.Logger"}
_FORMS = {
    "schedule": "module:function, or one of constant, cosine, poly and step",
    "callback": "module:Class, as in pytorch_lightning.callbacks:EarlyStopping",
    "logger": "csv, tensorboard, wandb, mlflow or module:Class, as in pytorch_lightning.loggers:WandbLogger",
}


def load(noun: str, name: str) -> Any:
    """Imports a class, or a function for "schedule". noun: "schedule", "logger" or "callback".

    Raises PluginError if the import fails or gives something else.
    """
    if noun == "logger":
        name = _TRACKERS.get(name, name)
    if ":" not in name:
        raise PluginError(f"There is no {noun} {name!r}. Write {_FORMS[noun]}.")
    imported = registry.import_object(noun, name)
    if noun == "schedule":
        if not callable(imported) or (isinstance(imported, type) and "__call__" not in dir(imported)):
            raise PluginError(
                f"The schedule {name!r} cannot be called with a step. Fix: write a function (step, steps, options) "
                "that returns the learning rate factor, or a class with such a __call__."
            )
        return imported
    bases = [
        f"{base.__module__}.".startswith(_LIGHTNING) and base.__name__ for base in getattr(imported, "__mro__", ())
    ]
    if noun.capitalize() not in bases:
        what = f"the class {imported.__name__}" if isinstance(imported, type) else f"a {type(imported).__name__}"
        raise PluginError(f"The {noun} {name!r} is {what}, which is not a subclass of {_BASES[noun]}.")
    return imported


def schedule(section: OptimSection) -> Callable[[int, int], float] | None:
    """The schedule as a function (step, steps) -> factor; None for a built-in schedule."""
    if isinstance(section.schedule, str):
        return None
    name, where = section.schedule.name, "optim.schedule"
    custom = load("schedule", name)
    arguments = () if isinstance(custom, type) else ("step", "steps")
    options = signatures.check(custom, arguments, name, section.schedule.options, where)
    if isinstance(custom, type):
        return registry.construct(custom, name, options=options, where=where)
    return lambda step, steps: custom(step, steps, **options)


def check(noun: str, section: PluginSection, where: str, folder: str = ".") -> dict[str, Any]:
    """The options of a "callback" or "logger". Raises PluginError if the import fails, and OptionError for an invalid
    option.

    folder: the run folder, the default of a logger's parameter `save_dir`.
    """
    if noun == "logger" and section.name in BUILT_IN_LOGGERS:
        signatures.check(lambda: None, (), section.name, section.options, where)  # has no options
        if section.name == "tensorboard" and not any(map(importlib.util.find_spec, ("tensorboard", "tensorboardX"))):
            raise PluginError(
                "The logger 'tensorboard' needs a package that is not installed. Try `pip install tensorboard`."
            )
        return {}
    plugin = load(noun, section.name)
    options = {key: Path(folder).name for key in _RUN_NAMES.get(section.name, ())} | (
        {"save_dir": folder} if noun == "logger" and signatures.takes(plugin, "save_dir") else {}
    )
    has_server = section.options.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI")
    if section.name == "mlflow" and not has_server:  # MLflow 3 refuses folders
        database, files = (Path(folder).absolute() / name for name in ("mlflow.db", "mlruns"))
        options |= {"tracking_uri": f"sqlite:///{database}", "artifact_location": files.as_uri()}
    return signatures.check(plugin, (), section.name, options | section.options, where)
