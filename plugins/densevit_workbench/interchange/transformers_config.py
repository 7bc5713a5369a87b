"""The config.json and preprocessor_config.json of an export to transformers, if transformers has such a model."""

from collections.abc import Mapping, Sequence
from typing import Any

from densevit.interfaces import CheckpointLayout, Class, StateDict

Json = dict[str, Any]


def files(
    layout: CheckpointLayout,
    sections: Mapping[str, Any],
    state: StateDict,
    classes: Sequence[Class],
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, Json]:
    """The files' contents by name; empty if transformers has no such model or its config is not implemented.

    sections: the config sections that the layout describes. state: the state dict with our keys.
    """
    written = layout.publishing.config_files(sections, state, classes)
    if "config.json" not in written:
        return {}
    config = dict(written["config.json"])
    if classes:
        config.setdefault("id2label", {str(row): one.name for row, one in enumerate(classes)})
        config["label2id"] = {name: int(row) for row, name in config["id2label"].items()}
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": False,  # the model's own config determines the size
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [*mean],
        "image_std": [*std],
    }
    return {"config.json": config, "preprocessor_config.json": processor | written.get("preprocessor_config.json", {})}
