"""How a checkpoint wants its pictures, and what its classes are called: what stands beside the tensors.

In all of them `mean` and `std` are of pixels in 0 ... 1, however the file says it; `channel_order` is there where it is
"bgr", and `classes` are the names by row of the class head. `options` are those of a config that leave no trace in
tensors, by their whole names: {"backbone.dilation": True}.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from densevit.errors import WeightsError, one_line

# Files of the Hugging Face Hub: transformers' and timm's, the model's and its pictures'.
CONFIG = "config.json"
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")


def beside(folder: Path) -> dict[str, Any]:
    """The facts in a Hub folder's JSON files; empty where there are none. Raises WeightsError where one is spoilt."""
    facts: dict[str, Any] = {}
    config = _json(folder / CONFIG)
    with _saying_which(folder / CONFIG):
        facts |= of_timm(config.get("pretrained_cfg") or {})
        facts |= _label_names(config.get("id2label") or {})
        if options := _options(config) | options_of_timm(config.get("architecture")):
            facts["options"] = options
    for name in PREPROCESSORS:
        found = _json(folder / name)
        found = found.get("image_processor", found)
        if isinstance(found, Mapping) and ("image_mean" in found or "do_rescale" in found):
            with _saying_which(folder / name):
                return facts | of_transformers(found)
    return facts


@contextmanager
def _saying_which(file: Path) -> Iterator[None]:
    """Makes a WeightsError, which names the file, of what is raised where it holds other things than expected."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise WeightsError(
            f"{file}: is not as transformers or timm writes it ({one_line(error)}). Copy or download it again."
        ) from error


def of_transformers(processor: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' image processor does to pixels of 0 ... 255: `(p * rescale_factor - image_mean) / image_std`,
    as a mean and std of pixels in 0 ... 1."""
    white = 255.0  # the value of a white pixel where image_mean is taken off
    if processor.get("do_rescale", True):
        white *= float(processor.get("rescale_factor", 1 / 255))
    shift = 1.0 if processor.get("offset", False) else 0.0
    mean, std = _three(processor.get("image_mean", 0.0)), _three(processor.get("image_std", 1.0))
    if not processor.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    facts: dict[str, Any] = {
        "mean": tuple((m + shift) / white for m in mean),
        "std": tuple(s / white for s in std),
    }
    if not all(math.isfinite(m) for m in facts["mean"]) or not all(0 < s < math.inf for s in facts["std"]):
        raise ValueError(
            f"image_mean is {[*mean]} and image_std {[*std]}: finite numbers are expected, the std above 0"
        )
    if processor.get("do_flip_channel_order"):
        facts["channel_order"] = "bgr"
    return facts


def of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """The facts in timm's `pretrained_cfg`."""
    facts: dict[str, Any] = {key: _three(config[key]) for key in ("mean", "std") if config.get(key)}
    if options := options_of_timm(config.get("architecture")):
        facts["options"] = options
    if config.get("label_names"):
        described = config.get("label_descriptions") or {}
        facts["classes"] = [str(described.get(name, name)) for name in config["label_names"]]
    return facts


def of_torchvision(weights: Any) -> dict[str, Any]:
    """The facts of a torchvision weights entry: its transforms' and its `meta`."""
    transforms = weights.transforms()
    facts: dict[str, Any] = {
        key: _three(getattr(transforms, key)) for key in ("mean", "std") if hasattr(transforms, key)
    }
    if weights.meta.get("categories"):
        facts["classes"] = [str(name) for name in weights.meta["categories"]]
    return facts


def of_checkpoint(content: Mapping[Any, Any]) -> dict[str, Any]:
    """The class names in the `meta` of an OpenMMLab checkpoint."""
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return {}
    meta = {**meta, **(meta["dataset_meta"] if isinstance(meta.get("dataset_meta"), Mapping) else {})}
    names = meta.get("classes", meta.get("CLASSES"))
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        return {}
    return {"classes": list(names)}


def weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, out of an index of shards that lie beside it. Raises WeightsError where it is none."""
    where = _json(index).get("weight_map")
    files = where if isinstance(where, dict) else {}
    if not files or any(not isinstance(file, str) or Path(file).name != file for file in files.values()):
        raise WeightsError(f"{index}: is no index of shards beside it. Expected a weight_map from tensors to files.")
    return files


def options_of_timm(architecture: Any) -> dict[str, Any]:
    """What the name of one of timm's architectures says: `swinv2_base_window12to16_192to256` has windows of 16 for
    pictures of 256 pixels, and was trained with 12 at 192 before."""
    found = re.fullmatch(r"swinv2_\w+?_window(?:(\d+)to)?(\d+)_(?:(\d+)to)?(\d+)", str(architecture))
    if found is None:
        return {}
    before, window, before_side, side = (int(number) if number else 0 for number in found.groups())
    return _windows(window, side, _of_stages(before, before_side) if before and before_side else None)


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' config.json says of a DETR and of a Swinv2."""
    kind, options = config.get("model_type"), dict[str, Any]()
    if kind in ("detr", "table-transformer"):
        backbone = config.get("backbone_config") or {}
        options["backbone.dilation"] = bool(config.get("dilation")) or backbone.get("output_stride") == 16
        heads = {config.get(f"{part}_attention_heads", 8) for part in ("encoder", "decoder")}
        if len(heads) == 1:
            options["heads.detection.num_heads"] = heads.pop()
    elif kind == "swinv2":
        window, side = config.get("window_size", 7), config.get("image_size", 224)
        before = config.get("pretrained_window_sizes") or ()
        if isinstance(window, int) and isinstance(side, int):
            options = _windows(window, side, tuple(before) if len(before) == 4 and all(before) else None)
    return options


def _windows(window: int, side: int, before: tuple[int, ...] | None) -> dict[str, Any]:
    windows = _of_stages(window, side)
    return {
        "backbone.window_size": windows[0] if len(set(windows)) == 1 else windows,
        "backbone.pretrained_window_sizes": None if before == windows else before,
    }


def _of_stages(window: int, side: int) -> tuple[int, ...]:
    """The windows of a Swin's four stages: no larger than a stage's map of a picture of this side."""
    return tuple(min(window, side // (4 * 2**stage)) for stage in range(4))


def _label_names(id2label: Mapping[str, str]) -> dict[str, Any]:
    """Names by row. `LABEL_0` and its like are what transformers writes where nobody gave names."""
    names = {int(row): str(name) for row, name in id2label.items() if str(row).isdecimal()}
    if not names or len(names) > 100_000 or all(name == f"LABEL_{row}" for row, name in names.items()):
        return {}
    return {"classes": [names.get(row, "N/A") for row in range(min(max(names), 100_000) + 1)]}


def _three(value: float | Sequence[float]) -> tuple[float, ...]:
    three = (float(value),) * 3 if isinstance(value, (int, float)) else tuple(float(v) for v in value)
    if len(three) != 3:
        raise ValueError(f"three numbers are expected, for red, green and blue, not {[*three]}")
    return three


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is not whole JSON ({one_line(error)}). Copy or download it again.") from error
    return content if isinstance(content, dict) else {}
