"""Options of `detr_panoptic` in earlier versions, which had those of its detector beside its own."""

from collections.abc import Mapping
from typing import Any

from densevit_heads.detr.renamed_options import renamed as renamed_detr

OWN = ("mask_weight", "dice_weight", "freeze_detector", "threshold")


def renamed(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The head's name and options in this version; None if there is no equivalent."""
    detector = renamed_detr({key: value for key, value in options.items() if key not in (*OWN, "detr")})
    if detector is None or detector[0] == "ddq":
        return None
    name, given = detector
    return f"{name}_panoptic", {name: given, **{key: options[key] for key in OWN if key in options}}
