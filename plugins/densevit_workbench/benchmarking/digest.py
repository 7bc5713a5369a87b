"""What a score depends on besides the backbone: results with one digest are comparable.

Franca's issue 2 reports mIoU 41.8 against 47.7 because masks were reduced before the metric: such labels have another
hash and another size, so another digest.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from densevit.config import Config
from densevit.interfaces import Dataset, Evaluator
from densevit.model import DenseModel

PARTS = ("protocol", "data", "labels", "tokens", "channels", "metrics")
_BACKBONE = ("backbone", "seed")  # sections that a row may choose
_MACHINE = {  # keys without effect on the protocol, or which another part has
    "data": ("root", "image_size", "num_workers", "channels"),
    "trainer": ("devices", "accelerator", "num_nodes", "loggers", "callbacks", "compile"),
}


def digest_of(parts: Mapping[str, str]) -> str:
    """The digest of the `PARTS` of a result."""
    return hashed([parts[name] for name in PARTS])


def differing(parts: Mapping[str, str], second: Mapping[str, str]) -> str:
    """The parts that differ, with both values: "tokens: 4x4, not 8x8"."""
    return "; ".join(f"{name}: {parts[name]}, not {second[name]}" for name in PARTS if parts[name] != second[name])


def protocol_of(config: Config, rates: Sequence[float] = ()) -> str:
    """The hash of the resolved config without the backbone and the machine. rates: learning rates that a trial chooses
    from; their list counts then, not the choice."""
    values = {name: value for name, value in config.model_dump().items() if name not in _BACKBONE}
    for section, keys in _MACHINE.items():
        values[section] = {key: value for key, value in values[section].items() if key not in keys}
    if rates:
        values["optim"] = {**values["optim"], "lr": sorted(rates)}
    return hashed(values)


def parts_of(
    config: Config, dataset: Dataset, model: DenseModel, evaluators: Mapping[str, Evaluator], rates: Sequence[float]
) -> dict[str, str]:
    """The `PARTS` of a result. dataset: the evaluated split, whose targets evaluators see unchanged.

    Tokens are the cells of the last feature map: with other patches, other images in pixels have equally many.
    """
    hashes, sizes = hashlib.sha256(), []
    for index in range(len(dataset)):
        sample = dataset[index]
        targets, (height, width) = sample["targets"], sample["image"].shape[-2:]
        sizes.append((int(height), int(width)))
        for key in sorted(set(targets) & {*dataset.provides, "image_id"}):
            hashes.update(f"{dataset.image_name(index)} {key}".encode() + _bytes(targets[key]))
    side = config.data.image_size
    grid = [] if side is None else [-(-n // model.backbone.strides[-1]) for n in _pair(side)]
    on_input = any(getattr(evaluator, "grid", "image") == "input" for evaluator in evaluators.values())
    return {
        "protocol": protocol_of(config, rates),
        "data": f"{config.data.name} {config.data.split}, {len(dataset)} images, labels {hashes.hexdigest()[:12]}",
        "labels": _sizes(sizes) + (f" and {_sizes([_pair(side)])}" if on_input and side is not None else ""),
        "tokens": "x".join(map(str, grid)) or "by image",
        "channels": " ".join(dataset.channels.names),
        "metrics": " ".join(
            f"{name}:{type(evaluator).__name__}:{evaluator.version}" for name, evaluator in evaluators.items()
        ),
    }


def hashed(values: Any) -> str:
    """A short hash of values that JSON can store."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _bytes(value: Any) -> bytes:
    array = np.asarray(value)  # also of tensors and run-length masks
    content = repr(value).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
    return f"{array.shape} {array.dtype}".encode() + content


def _pair(side: int | Sequence[int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def _sizes(sizes: Iterable[tuple[int, int]]) -> str:
    """Heights and widths, such as "128x128" or "100x100 to 480x640"."""
    ordered = sorted(set(sizes))
    ends = [f"{height}x{width}" for height, width in dict.fromkeys([ordered[0], ordered[-1]])]
    return " to ".join(ends)
