"""Whether a config key exists, with a value of its type, in any recipe or for any registered plugin."""

from functools import cache
from typing import Any

from densevit import config as configs
from densevit import registry
from densevit.config import yaml_io
from densevit.errors import ConfigError, DensevitError
from densevit.registry.plugin_options import OptionError

# Recipes that have the sections of all kinds, in the order in which they are tried.
RECIPES = (
    "detr_swin", "coco/detr_r50", "setr_vit", "ade20k/segformer_b0", "dpt_swin", "nyu/dpt_hybrid", "panoptic_swin",
    "start/detector", "start/depth_anything_v2", "classifier", "pretrain/dino_swin", "imagenet/deit_small",
    "scenes/detr_vit",
)  # fmt: skip
PLUGIN_GROUPS = {
    "backbone": "backbones", "data": "datasets", "heads": "heads", "method": "methods", "optim": "optimizers",
    "probes": "probes",
}  # fmt: skip
WITHIN_DATA = {"transforms": "transforms"}
WITHIN_HEADS = {"neck": "necks", "evaluation": "evaluators"}


def check(override: str) -> None:
    """Raises ConfigError for "section.key=value" or "section.key" that is in no recipe and of no plugin."""
    error = problem(override)
    if error:
        raise ConfigError(error)


@cache
def problem(override: str) -> str:
    key, given, value = override.partition("=")
    path = key.split(".")
    if path[1:] in ([], ["NAME"]) and not given:
        return ""
    first = ""
    for recipe in RECIPES:
        error = _of_recipe(recipe, path, value if given else None)
        if not error:
            return ""
        first = first or error
    return "" if _of_plugin(path, value if given else None) else f"no recipe and no plugin takes {override}: {first}"


@cache
def head_names(recipe: str) -> tuple[str, ...]:
    return tuple(configs.load(recipe).heads)


def _of_recipe(recipe: str, path: list[str], value: str | None) -> str:
    """The error of an override of a recipe; empty if it is valid. value: None: only the key has to exist."""
    names = [*head_names(recipe)] if path[0] == "heads" and path[1:] else path[1:2]
    error = ""
    for name in names or [""]:
        key = ".".join([path[0], name, *path[2:]] if name else path)
        try:
            configs.check_plugins(configs.load(recipe, [f"{key}={'null' if value is None else value}"]))
        except DensevitError as found:
            error = str(found)
            if value is None and f"{key} is not " not in error and f"{key} should be" in error:
                return ""
        else:
            return ""
    return error


def _of_plugin(path: list[str], value: str | None) -> bool:
    section, *inner = path
    group = PLUGIN_GROUPS.get(section)
    if section in ("heads", "probes"):
        inner = inner[1:]
        if section == "heads" and inner and inner[0] in WITHIN_HEADS:
            group, inner = WITHIN_HEADS[inner[0]], inner[1:]
    elif section == "data" and inner and inner[0] in WITHIN_DATA:
        group, inner = WITHIN_DATA[inner[0]], inner[1:]
    if group is None or not inner:
        return False
    options: Any = None if value is None else yaml_io.parse(value, "value")
    for name in reversed(inner):
        options = {name: options}
    return any(_takes(group, name, options, ".".join(["x", *inner]), value is None) for name in registry.find(group))


def _takes(group: str, name: str, options: dict[str, Any], key: str, any_value: bool) -> bool:
    try:
        registry.check_options(group, name, options, "x")
    except OptionError as error:
        wrong = [one for one in (error, *error.further) if key.startswith(one.key)]
        return all(any_value and "should be" in str(one) for one in wrong)
    except DensevitError:
        return False
    return True
