"""Preprocessing and class names of a checkpoint, read from the metadata that comes with its tensors.

Each function returns a dict with any of these keys: `mean` and `std`, of pixels in 0 ... 1; `channel_order`, only if it
is "bgr"; `classes`, class names by row of the classifier; `config`, the content of config.json, or the `architecture`
of timm's `pretrained_cfg`; `licence`, of the weights, from the model card or timm's `pretrained_cfg`.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from densevit.errors import WeightsError, one_line

# Files of the Hugging Face Hub, written by transformers and timm: the model's config and its image processor's.
CONFIG = "config.json"
CARD = "README.md"  # with YAML front matter
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")


def folder_metadata(folder: Path) -> dict[str, Any]:
    """The metadata in a Hub folder's JSON files; empty if there are none. Raises WeightsError for an invalid file."""
    file = folder / CONFIG
    try:
        config = _json(file)
        metadata = timm_metadata(config.get("pretrained_cfg") or {}) | _label_names(config.get("id2label") or {})
        if config:
            metadata["config"] = {**metadata.get("config", {}), **config}
        if name := licence(folder / CARD):
            metadata["licence"] = name
        for file in (folder / name for name in PREPROCESSORS):
            processor = _json(file)
            processor = processor.get("image_processor", processor)
            if isinstance(processor, Mapping) and ("image_mean" in processor or "do_rescale" in processor):
                return metadata | transformers_metadata(processor)
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise WeightsError(
            f"{file}: not in the format of transformers or timm ({one_line(error)}). Copy or download it again."
        ) from error
    return metadata


def transformers_metadata(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and std of pixels in 0 ... 1 for transformers' image processor, which computes
    `(p * rescale_factor - image_mean) / image_std` from pixels p in 0 ... 255."""
    white = 255.0  # a white pixel's value before image_mean is subtracted
    if processor.get("do_rescale", True):
        white *= float(processor.get("rescale_factor", 1 / 255))
    shift = 1.0 if processor.get("offset", False) else 0.0
    mean, std = _three(processor.get("image_mean", 0.0)), _three(processor.get("image_std", 1.0))
    if not processor.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    metadata: dict[str, Any] = {
        "mean": tuple((m + shift) / white for m in mean),
        "std": tuple(s / white for s in std),
    }
    if not all(math.isfinite(m) for m in metadata["mean"]) or not all(0 < s < math.inf for s in metadata["std"]):
        raise ValueError(
            f"image_mean is {[*mean]} and image_std {[*std]}: finite numbers are expected, the std above 0"
        )
    if processor.get("do_flip_channel_order"):
        metadata["channel_order"] = "bgr"
    return metadata


def timm_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata in timm's `pretrained_cfg`."""
    metadata: dict[str, Any] = {key: _three(config[key]) for key in ("mean", "std") if config.get(key)}
    if config.get("license"):
        metadata["licence"] = str(config["license"])
    if config.get("architecture"):
        metadata["config"] = {"architecture": config["architecture"]}
    if config.get("label_names"):
        described = config.get("label_descriptions") or {}
        metadata["classes"] = [str(described.get(name, name)) for name in config["label_names"]]
    return metadata


def torchvision_metadata(weights: Any) -> dict[str, Any]:
    """The metadata of a torchvision weights entry, from its transforms and `meta`."""
    transforms = weights.transforms()
    metadata: dict[str, Any] = {
        key: _three(getattr(transforms, key)) for key in ("mean", "std") if hasattr(transforms, key)
    }
    if weights.meta.get("categories"):
        metadata["classes"] = [str(name) for name in weights.meta["categories"]]
    return metadata


def checkpoint_metadata(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Class names in `meta` of an OpenMMLab checkpoint or `args` of an RF-DETR checkpoint, and its `model_config`."""
    meta, args, model = (content.get(key) for key in ("meta", "args", "model_config"))
    metadata = {"model_config": model} if isinstance(model, Mapping) else {}
    names = args.get("class_names") if isinstance(args, Mapping) else None
    if isinstance(meta, Mapping):
        meta = {**meta, **(meta["dataset_meta"] if isinstance(meta.get("dataset_meta"), Mapping) else {})}
        names = meta.get("classes", meta.get("CLASSES"))
    is_listed = names and isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    return {**metadata, "classes": list(names or ())} if is_listed else metadata


def licence(card: Path) -> str | None:
    """The licence in a model card's front matter; None if there is none."""
    try:
        text = card.read_text(encoding="utf-8-sig")[:100_000]
    except (OSError, ValueError):
        return None
    head = re.match(r"---\s*\n(.*?)\n---\s*\n", text, re.DOTALL)
    fields = dict(re.findall(r"^(license(?:_name)?):[ \t]*['\"]?([\w.+-]+)", head[1], re.MULTILINE)) if head else {}
    name = fields.get("license")
    return fields.get("license_name", name) if name in (None, "other") else name  # `other` has a license_name


def _label_names(id2label: Mapping[str, str]) -> dict[str, Any]:
    """The metadata `classes`: class names by row of the classifier. Empty for `LABEL_0`, `LABEL_1`, ..., which
    transformers writes for unknown names."""
    names = {int(row): str(name) for row, name in id2label.items() if str(row).isdecimal()}
    if not names or len(names) > 100_000 or all(name == f"LABEL_{row}" for row, name in names.items()):
        return {}
    return {"classes": [names.get(row, "N/A") for row in range(min(max(names), 100_000) + 1)]}


def _three(value: float | Sequence[float]) -> tuple[float, ...]:
    three = (float(value),) * 3 if isinstance(value, (int, float)) else tuple(map(float, value))
    if len(three) != 3:
        raise ValueError(f"three numbers are expected, for red, green and blue, not {[*three]}")
    return three


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8-sig"))  # with or without a byte-order mark
    return content if isinstance(content, dict) else {}
