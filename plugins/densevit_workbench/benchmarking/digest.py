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
from densevit.data.data_splits import DataSplits
from densevit.data.datasets.file_checks import for_each
from densevit.interfaces import Dataset, Evaluator
from densevit.model import DenseModel

PARTS = ("protocol", "data", "train", "labels", "tokens", "channels", "metrics")
_BACKBONE = ("backbone", "seed")  # sections that a row may choose
_MACHINE = {  # keys without effect on the protocol, or which another part has
    "data": ("root", "image_size", "num_workers", "channels"),
    "trainer": ("devices", "accelerator", "num_nodes", "loggers", "callbacks", "compile"),
}


def digest_of(parts: Mapping[str, str]) -> str:
    """The digest of the `PARTS` of a result."""
    return hashed([parts[name] for name in PARTS])


def differing(parts: Mapping[str, str], second: Mapping[str, str]) -> str:
    """The parts that differ, with both values: "tokens: 4x4, not 8x8". Parts that `second` does not have are equal."""
    shared = [name for name in parts if name in second]
    return "; ".join(f"{name}: {parts[name]}, not {second[name]}" for name in shared if parts[name] != second[name])


def comparable(parts: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """Groups of names whose scores may be ranked together, the largest first: those that agree in each part that both
    have. parts: the `PARTS` of a result, by name."""
    groups: list[tuple[dict[str, str], list[str]]] = []
    for name, values in parts.items():
        for shared, names in groups:
            if all(shared.get(part, text) == text for part, text in values.items()):
                shared.update(values)
                names.append(name)
                break
        else:
            groups.append((dict(values), [name]))
    return sorted((names for _, names in groups), key=len, reverse=True)


def protocol_of(config: Config, rates: Sequence[float] = (), probes: Mapping[str, Any] | None = None) -> str:
    """The hash of the resolved config without the backbone and the machine. rates: learning rates that a trial chooses
    from; their list counts then, not the choice. probes: sections of probes, which a config does not have."""
    values = {name: value for name, value in config.model_dump().items() if name not in _BACKBONE}
    for section, keys in _MACHINE.items():
        values[section] = {key: value for key, value in values[section].items() if key not in keys}
    if rates:
        values["optim"] = {**values["optim"], "lr": sorted(rates)}
    return hashed(values | ({"probes": probes} if probes else {}))


def parts_of(
    config: Config,
    data: DataSplits,
    model: DenseModel,
    evaluators: Mapping[str, Evaluator],
    rates: Sequence[float] = (),
    probes: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The `PARTS` of a result. Evaluators see the targets of the evaluated split unchanged. Others as of `protocol_of`.

    Tokens are the cells of the last feature map: with other patches, other images in pixels have equally many.
    """
    (train, _), (val, sizes) = _labels(data.train), _labels(data.val)
    side = config.data.image_size
    grid = [] if side is None else [-(-n // model.backbone.strides[-1]) for n in np.broadcast_to(side, 2).tolist()]
    return {
        "protocol": protocol_of(config, rates, probes),
        "data": f"{config.data.name} {config.data.val_split}, {val}",
        "train": train,
        "labels": sizes,
        "tokens": "x".join(map(str, grid)) or "by image",
        "channels": " ".join(data.val.channels.names),
        "metrics": " ".join(
            f"{name}:{type(evaluator).__name__}:{evaluator.version}" for name, evaluator in evaluators.items()
        ),
    }


def _labels(dataset: Dataset) -> tuple[str, str]:
    """The number of images with a hash of their names and labels, and their sizes."""
    hashes, sizes = [b""] * len(dataset), [(0, 0)] * len(dataset)

    def read(index: int) -> None:
        sample = dataset[index]
        targets, (height, width), content = sample["targets"], sample["image"].shape[-2:], hashlib.sha256()
        sizes[index] = (int(height), int(width))
        for key in sorted(set(targets) & {*dataset.provides, "image_id"}):
            content.update(f"{dataset.image_name(index)} {key}".encode() + _bytes(targets[key]))
        hashes[index] = content.digest()

    for_each(len(dataset), read, "Hashing labels")
    return f"{len(dataset):,} images, labels {hashlib.sha256(b''.join(hashes)).hexdigest()[:12]}", _sizes(sizes)


def hashed(values: Any) -> str:
    """A short hash of values that JSON can store. Keys whose value is None are left out, so that a key which a later
    version adds, and a config does not set, changes no digest."""
    return hashlib.sha256(json.dumps(_without_none(values), sort_keys=True, default=str).encode()).hexdigest()[:12]


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value


def _bytes(value: Any) -> bytes:
    array = np.asarray(value)  # also of tensors and run-length masks
    content = repr(value).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
    return f"{array.shape} {array.dtype}".encode() + content


def _sizes(sizes: Iterable[tuple[int, int]]) -> str:
    """Heights and widths, such as "128x128" or "100x100 to 480x640"."""
    ordered = sorted(set(sizes))
    ends = [f"{height}x{width}" for height, width in dict.fromkeys([ordered[0], ordered[-1]])]
    return " to ".join(ends)
