"""Options of `detr` in earlier versions, which had those of `dab_detr` and `ddq` as well."""

from collections.abc import Mapping
from typing import Any

from densevit.set_prediction.renamed_options import nested, without

OF_DETR = {"positions": "sine", "pre_norm": False}
OF_BOXES: dict[str, Any] = {
    "memory_stride": None,
    "fusion_blocks": 0,
    "classification": "softmax",
    "anchors": False,
    "position_bias": False,
    "two_stage": False,
    "denoising": 0,
    "dense_loss": 0.0,
    "contrastive_denoising": 0,
    "look_forward_twice": False,
    "distinct_queries": 0.0,
}
# The defaults that differ from those of the head which now has the options.
DAB_DETR = {"num_queries": 100, "dropout": 0.1, "label_cost": 1.0, "classification": "softmax"}
DDQ = {"num_queries": 100, "encoder_layers": 6, "decoder_layers": 6, "dropout": 0.1, "fusion_blocks": 0}
DDQ |= {"position_bias": False}


def renamed(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The head's name and options in this version; None if there is no equivalent."""
    now: dict[str, Any] | None
    if options.get("distinct_queries"):
        given = {key: value for key, value in options.items() if key not in ("auxiliary_losses", "look_forward_twice")}
        given["duplicate_iou"] = given.pop("distinct_queries")
        no_others = {"two_stage": False, "denoising": 0, "contrastive_denoising": 0}
        now = without({**DDQ, **given}, {**OF_DETR, **no_others, "anchors": True, "no_object_weight": 0.1})
        return None if now is None or now.get("memory_stride") is None else ("ddq", nested(now))
    if options.get("anchors"):
        now = without({**DAB_DETR, **options}, {**OF_DETR, "anchors": True, "distinct_queries": 0.0})
        return None if now is None or now.pop("no_object_weight", 0.1) != 0.1 else ("dab_detr", nested(now))
    now = without(options, OF_BOXES)
    return None if now is None else ("detr", nested(now))
