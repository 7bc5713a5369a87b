"""mmsegmentation's SETR: the released lists of names, and reference models with these names.

For an image of another size mmsegmentation resizes positions bilinearly; the reference here uses our interpolation.
"""

import pytest
import torch
from rich.console import Console

from densevit.weights.key_mapping import describe, translate
from densevit.weights.label_sets import preset_classes
from densevit.weights.layouts import find, recognise
from densevit.weights.weights_table import weights_table

pytestmark = pytest.mark.integration

K, C, WIDTH, BRANCH, SIDE = 5, 128, 24, 16, 64


def layout_name(decoder: str) -> str:
    return "mmseg-setr" if decoder == "pup" else f"mmseg-setr-{decoder}"


WITHOUT_EFFECT = {"mmseg-setr-naive-ade20k": r"auxiliary_head\.", "mmseg-setr-mla": r"backbone\.cls_token"}


UPSAMPLED, LEVELS = (10, 15, 20, 24), (6, 12, 18, 24)
RELEASES = {
    "setr_naive_ade20k": (
        "naive-ade20k",
        512,
        {"features": UPSAMPLED},
        {"decoder": "naive", "auxiliary": [], "padded": "stretch"},
    ),
    "setr_naive_cityscapes": (
        "naive",
        768,
        {"features": UPSAMPLED},
        {"decoder": "naive", "auxiliary": [1, 2, 3], "padded": "stretch"},
    ),
    "setr_pup_ade20k": (
        "pup",
        512,
        {"features": UPSAMPLED},
        {"decoder": "pup", "auxiliary": [1, 2, 3], "padded": "stretch"},
    ),
    "setr_mla_ade20k": (
        "mla",
        512,
        {"features": LEVELS, "class_token": False},
        {"decoder": "mla", "auxiliary": [1, 2, 3, 4], "branch_width": 128, "padded": "stretch"},
    ),
}


@pytest.mark.parametrize(("name", "expected"), RELEASES.items(), ids=RELEASES)
def test_each_tensor_of_a_release_is_used_once_or_listed(name, expected, whole, released):
    layout, image_size, backbone, head = expected
    with torch.device("meta"):
        state, layout = released(name), find(layout_name(layout))
    assert recognise(state) is layout
    assert describe(state, layout) == {
        "backbone": {"name": "vit", "variant": "large", "patch_size": 16, "image_size": image_size}
        | {"feature_norm": False, "position_resizing": "bilinear"}
        | backbone,
        "heads": {"segmentation": {"name": "setr", "width": 256} | head},
    }
    model = whole(state, layout, WITHOUT_EFFECT.get(layout.name, "(?!)"))
    idle = translate(state, layout).left_out
    if layout.name == "mmseg-setr-naive-ade20k":
        assert layout.special.missing.keys() == {"heads.segmentation.auxiliary.*"}  # alternative config values
    known = preset_classes("cityscapes" if "cityscapes" in name else "ade20k")
    assert model.heads["segmentation"].classes == known
    given = sum(x.numel() for key, x in state.items() if key not in idle)
    assert given - sum(x.numel() for x in model.state_dict().values()) == 1024  # the class token's position


# ---- mmsegmentation 1.2, whose patch embedding has no bias ----

BIAS = "backbone.patch_embed.projection.bias"


def shown(fit):
    console = Console(width=200)
    with console.capture() as message:
        console.print(weights_table(fit))
    return " ".join(message.get().split())
