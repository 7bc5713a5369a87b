"""Suggests the right key for keys without a section and for keys of other projects, such as `epochs=5`."""

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
    "device": "trainer.accelerator, and trainer.devices",
    "project": "the flag --run-dir",
    "name": "the flag --run-dir",
}


def hint(key: str) -> str:
    """A hint for a top-level key, such as " Did you mean trainer.max_epochs?", with a leading space; or empty."""
    sections = [name for name, section in _SECTIONS.items() if key in section.model_fields]
    meant = _OF_OTHERS.get(key) or (f"{sections[0]}.{key}" if len(sections) == 1 else "")
    return f" Did you mean {meant}?" if meant else ""
