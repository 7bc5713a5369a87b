"""Small versions of configs: trainings of two steps on images of 64 pixels, which take a second on a CPU."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import pytest

from densevit import config as configs
from densevit import registry
from densevit.config import config_loading, sections
from densevit.config.config_layers import ConfigLayer

CAPS = {  # options of heads and keys of their sections: the largest value
    "encoder_layers": 1, "decoder_layers": 2, "layers": 1, "width": 64, "feedforward": 64, "ffn_width": 64,
    "num_points": 64, "num_heads": 8, "branch_width": 16, "fusion_blocks": 1,
}  # fmt: skip
STEPS, EXTENDED = 2, 4


def install(patch: pytest.MonkeyPatch) -> None:
    """Each config is checked as it is given, and then made small."""
    validated, section = config_loading.validated, sections.section

    def small_validated(section_type: type[configs.Config], layer: ConfigLayer) -> configs.Config:
        given = validated(section_type, layer).model_dump()
        of_a_run = layer.source_of(("seed",)).endswith("config.yaml")
        extended = of_a_run and layer.source_of(("trainer", "max_images")) in ("command line", "overrides")
        return validated(section_type, dataclasses.replace(layer, values=small(given, extended)))

    def small_section(name: str, values: Any, source: str, overrides: Any = ()) -> Any:
        found = section(name, values, source, overrides)
        return type(found).model_validate(small_data(found.model_dump())) if name == "data" else found

    patch.setattr(config_loading, "validated", small_validated)
    for module in (configs, sections):
        patch.setattr(module, "section", small_section)


def small(config: dict[str, Any], extended: bool = False) -> dict[str, Any]:
    """A config's values. extended: whether a run is resumed with a larger budget."""
    from densevit.set_prediction.transformer import Transformer  # late: it imports torch

    config["trainer"] |= {
        "max_images": None, "max_epochs": None, "max_steps": EXTENDED if extended else STEPS,
        "evaluations": None, "evaluate_every_epochs": 1, "accelerator": "cpu", "devices": 1, "num_nodes": 1,
        "strategy": "auto", "precision": "32", "accumulate": 1, "keep_checkpoints": 1, "compile": False,
    }  # fmt: skip
    if "burn_in" in config["method"]:  # of mean_teacher, which must end before the training
        config["method"]["burn_in"] = 1
    config["data"] = small_data(config["data"])
    config["backbone"] = small_backbone(config["backbone"])
    for head in config["heads"].values():
        parameters = inspect.signature(registry.load("heads", head["name"]).__init__).parameters
        cap(head, {key: parameter.default for key, parameter in parameters.items()})
        for detector in ("detr", "box_query_detr"):  # of a panoptic head
            if detector in parameters:
                cap(head.setdefault(detector, {}), {"transformer": Transformer()})
    return config


def cap(options: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Caps options, also those in sections. defaults: of all options."""
    for key, default in defaults.items():
        value = options.get(key, default)
        if dataclasses.is_dataclass(default):
            cap(options.setdefault(key, {}), vars(default))
        elif key in CAPS and isinstance(value, int):
            options[key] = min(value, CAPS[key])


def small_data(data: dict[str, Any]) -> dict[str, Any]:
    data |= {"batch_size": min(data["batch_size"], 2), "num_workers": 0}
    for section in data.get("sets", {}).values():
        if "per_batch" in section:
            section["per_batch"] = 1
    size = data["image_size"]
    if size is not None:
        data["image_size"] = [64, 96] if isinstance(size, list | tuple) and size[0] != size[1] else 64
    if data["transforms"].get("short_side") is not None:
        data["transforms"]["short_side"] = 64
    if data["name"] == "scenes" and data["train"] is None:
        data |= {"train_length": 4, "val_length": 2}
    return data


def small_backbone(backbone: dict[str, Any]) -> dict[str, Any]:
    match backbone["name"]:
        case "swin" | "mvit":
            backbone["variant"] = "nano"
        case "vit":
            if backbone.get("variant") != "nano" and backbone.get("features"):
                backbone["features"] = [*range(7 - len(backbone["features"]), 7)]  # nano has six blocks
            backbone["variant"] = "nano"
        case "resnet" if backbone.get("depth", 50) > 18:
            backbone["depth"] = 18
            if str(backbone.get("weights")).startswith("torchvision:"):
                backbone["weights"] = "torchvision:resnet18"
    return backbone
