"""Options of `deformable_detr` in earlier versions, which had those of `dino` as well."""

from collections.abc import Mapping
from typing import Any

from densevit.set_prediction.renamed_options import nested, without

OF_DINO: dict[str, Any] = {
    "classification": "focal",
    "denoising": 0,
    "contrastive_denoising": 0,
    "mixed_query_selection": False,
    "look_forward_twice": False,
    "refined_positions": False,
    "class_proposals": False,
}
REMOVED = {"dense_loss": 0.0, "hybrid_queries": 0}
# The defaults that differ from those of `dino`.
DINO = {**OF_DINO, "num_queries": 300, "ffn_width": 1024, "dropout": 0.1, "label_weight": 2.0}


def renamed(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The head's name and options in this version; None if there is no equivalent.

    Denoising groups become contrastive denoising, whose parameters are the same. Options that are without effect on
    predictions are left out where `dino` is another model: look_forward_twice and classification without two stages.
    """
    given = without({key: value for key, value in options.items() if key != "hybrid_repeats"}, REMOVED)
    if given is None:
        return None
    if not options.get("two_stage") or all(options.get(key, off) == off for key, off in OF_DINO.items()):
        return "deformable_detr", nested({key: value for key, value in given.items() if key not in OF_DINO})
    given = {**DINO, **given}
    if given.pop("denoising") and not given["contrastive_denoising"]:
        given["contrastive_denoising"] = 100
    del given["two_stage"], given["box_refinement"]
    return "dino", nested(given)
