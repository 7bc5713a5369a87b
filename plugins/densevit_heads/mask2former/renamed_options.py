"""Options of `mask2former` in earlier versions, in which `task` chose among what are three heads now."""

from collections.abc import Mapping
from typing import Any

from densevit.set_prediction.renamed_options import nested

NAMES = {"panoptic": "mask2former", "instance": "mask2former_instance", "semantic": "mask2former_semantic"}
NESTED = {  # before: now
    **{name: f"transformer.{name}" for name in ("width", "num_heads", "decoder_layers", "dropout")},
    "ffn_width": "transformer.feedforward",
    "encoder_layers": "pixel_decoder.layers",
    "encoder_ffn_width": "pixel_decoder.feedforward",
    "fusion_blocks": "pixel_decoder.fusion_blocks",
}


def renamed(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The head's name and options in this version; None if there is no equivalent."""
    task = options.get("task", "panoptic")
    if task not in NAMES:
        return None
    unused = {"task"} if task == "panoptic" else {"task", "threshold"}
    return NAMES[task], nested({key: value for key, value in options.items() if key not in unused}, NESTED)
