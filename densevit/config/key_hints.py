"""Suggests the right key for keys without a section and for keys of other projects, such as `epochs=5`."""

import json
from typing import Any

from densevit.config.data_schema import DataSection
from densevit.config.training_schema import OptimSection, TrainerSection
from densevit.config.values import Section

_SECTIONS: dict[str, type[Section]] = {"trainer": TrainerSection, "optim": OptimSection, "data": DataSection}
_OF_OTHERS = {  # Ultralytics' names, and a name that several sections have
    "epochs": "trainer.max_epochs",
    "imgsz": "data.image_size",
    "batch": "data.batch_size",
    "batch_size": "data.batch_size",
    "lr0": "optim.lr",
    "workers": "data.num_workers",
}
_RUN_FOLDER = {"project": "{}/NAME", "name": "runs/{}"}


def hint(key: str, value: Any) -> str:
    """A hint for a top-level key, such as " Did you mean trainer.max_epochs=5?", with a leading space; or empty."""
    if key in _RUN_FOLDER:
        return f" The run's folder is set by the flag --run-dir {_RUN_FOLDER[key].format(value)}."
    if key == "device":
        return f" Did you mean {_device(value)}?"
    sections = [name for name, section in _SECTIONS.items() if key in section.model_fields]
    meant = _OF_OTHERS.get(key) or (f"{sections[0]}.{key}" if len(sections) == 1 else "")
    return f" Did you mean {meant}={_written(value)}?" if meant else ""


def _device(value: Any) -> str:
    """The trainer's keys for a device such as "cpu", "mps", 0, "0,1", [0, 1], "cuda:1"."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    kind, _, index = text.rpartition(":") if ":" in text else ("", "", text)
    if index in ("cpu", "mps", "cuda", "gpu"):
        return f"trainer.accelerator={index}"
    devices = index if "," in index else f"{index},"  # indices; a single number would be a count
    return f"trainer.accelerator={kind or 'gpu'} trainer.devices={devices}"


def _written(value: Any) -> str:
    """A value as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
