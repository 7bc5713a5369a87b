"""Records what the authors' code of DETR and Deformable DETR computes, for `test_detr_originals.py`.

    python -m tests.weights.layouts.originals.record_detr ORIGINAL CHECKOUT

ORIGINAL: a key of ORIGINALS. CHECKOUT: a clone of its repository. Writes ORIGINAL.safetensors beside this file: logits
and boxes after each decoder layer and every third pixel of the masks, named by the sizes of the images of a batch; the
names and shapes of the tensors; the commit. Weights are those of `random_detector`, images those of `random_pixels`.
The CUDA operator of Deformable DETR is replaced by the authors' implementation in PyTorch. In double precision: these
weights turn the rounding of single precision into differences of up to 4e-3 in the logits.
"""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.weights.layouts.originals.record_swin import random_image
from tests.weights.layouts.originals.record_vit import commit_of, random_weights, shapes_of, write

BATCHES = (((97, 131), (83, 150)), ((160, 136), (64, 201)), ((111, 70),))
NUM_HEADS, NUM_PROPOSALS = 8, 11
COMMON: dict[str, Any] = {
    "dataset_file": "coco", "device": "cpu", "lr_backbone": 1e-5, "frozen_weights": None, "masks": False,
    "aux_loss": True, "backbone": "resnet50", "dilation": False, "position_embedding": "sine", "hidden_dim": 32,
    "nheads": NUM_HEADS, "dropout": 0.0, "enc_layers": 2, "dec_layers": 2, "dim_feedforward": 48, "num_queries": 5,
    "pre_norm": False, "set_cost_class": 1, "set_cost_bbox": 5, "set_cost_giou": 2, "cls_loss_coef": 2,
    "bbox_loss_coef": 5, "giou_loss_coef": 2, "mask_loss_coef": 1, "dice_loss_coef": 1, "eos_coef": 0.1,
    "focal_alpha": 0.25, "num_feature_levels": 4, "enc_n_points": 4, "dec_n_points": 4, "with_box_refine": False,
    "two_stage": False, "position_embedding_scale": 2 * math.pi,
}  # fmt: skip
PANOPTIC = {"masks": True, "dataset_file": "coco_panoptic", "hidden_dim": 128}
TWO_STAGE = {"with_box_refine": True, "two_stage": True, "num_queries": NUM_PROPOSALS, "hidden_dim": 256}

FACTORS = {  # of parameters, by patterns of their names
    r"layer\d\.\d+\.bn3\.weight": 0.3,
    r"input_proj\.weight|in_proj_weight": 2.0,
    r"bbox_embed\..*layers\.2\.weight": 3.0,
    r"sampling_offsets\.bias": 8.0,
    r"bbox_attention\..*weight": 4.0,
    r"mask_head\.adapter": 0.3,
}


class Original(NamedTuple):
    repository: str
    options: dict[str, Any]


ORIGINALS = {
    "detr": Original("facebookresearch/detr", {"backbone": "resnet18"}),
    "detr-learned": Original(
        "facebookresearch/detr", {"backbone": "resnet18", "pre_norm": True, "position_embedding": "learned"}
    ),
    "detr-dc5": Original("facebookresearch/detr", {"dilation": True}),
    "detr-panoptic": Original("facebookresearch/detr", PANOPTIC),
    "detr-panoptic-dc5": Original("facebookresearch/detr", {**PANOPTIC, "dilation": True}),
    "deformable-detr": Original("fundamentalvision/Deformable-DETR", {}),
    "deformable-detr-single-scale": Original("fundamentalvision/Deformable-DETR", {"num_feature_levels": 1}),
    "deformable-detr-refined": Original("fundamentalvision/Deformable-DETR", {"with_box_refine": True}),
    "deformable-detr-two-stage": Original("fundamentalvision/Deformable-DETR", TWO_STAGE),
}


def random_detector(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """`random_weights`, with queries, points and features that differ more, and equal tensors of modules used twice.

    Deformable DETR has its prediction layers also in the decoder if it refines boxes; otherwise all layers share them.
    """
    state = {name: x for name, x in random_weights(shapes).items() if name in shapes}
    for name, x in state.items():
        for pattern, factor in FACTORS.items():
            if re.search(pattern, name):
                x *= factor
        if name.endswith(("query_embed.weight", "row_embed.weight", "col_embed.weight", "level_embed")):
            x *= 2 * math.sqrt(x.shape[1])
        elif name.endswith("in_proj_weight"):
            x[: 2 * x.shape[1]] *= 5  # queries and keys
        elif name.endswith("input_proj.weight"):
            x -= x.mean(1, keepdim=True)  # features are positive
        elif name == "mask_head.lay1.weight":
            x[:, -NUM_HEADS:] *= 1000  # attention maps sum to 1
    shared = "transformer.level_embed" in shapes and "transformer.decoder.bbox_embed.0.layers.0.weight" not in shapes
    first = re.compile(
        r"(?<=^class_embed\.)\d|(?<=^bbox_embed\.)\d" if shared else r"^transformer\.decoder\.(?=.*_embed)"
    )
    return {name: state[first.sub("0" if shared else "", name)] for name in shapes}


def random_pixels(height: int, width: int) -> Tensor:
    """(3, H, W), uint8: patches and noise."""
    patches = random_image(height // 16 + 1, width // 16 + 1)[0]
    patches = patches.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width]
    return (128 + 50 * patches + 20 * random_image(height, width)[0]).clamp(0, 255).round().byte()


def key_of(sizes: Sequence[tuple[int, int]]) -> str:
    return "+".join("{}x{}".format(*size) for size in sizes)


def build(options: dict[str, Any], checkout: Path) -> nn.Module:
    import torchvision

    operator = ModuleType("MultiScaleDeformableAttention")
    sys.modules["MultiScaleDeformableAttention"] = operator
    sys.path.insert(0, str(checkout))
    torchvision.__version__ = "0.9.0"  # Deformable DETR compares the first three characters with 0.5
    import models.backbone

    vars(models.backbone)["is_main_process"] = lambda: False  # which loads weights
    if (checkout / "models" / "ops").exists():
        from models.ops.functions.ms_deform_attn_func import ms_deform_attn_core_pytorch

        vars(operator)["ms_deform_attn_forward"] = lambda value, shapes, starts, locations, weights, step: (
            ms_deform_attn_core_pytorch(value, shapes, locations, weights)
        )
    model: nn.Module = models.build_model(SimpleNamespace(**{**COMMON, **options}))[0]
    model.load_state_dict(random_detector(shapes_of(model)))
    return model.double().eval()


@torch.no_grad()
def record(name: str, checkout: Path) -> None:
    from torchvision.transforms.functional import normalize

    model = build(ORIGINALS[name].options, checkout)
    from util.misc import nested_tensor_from_tensor_list

    tensors = {}
    for sizes in BATCHES:
        pixels = [random_pixels(*size) / 255 for size in sizes]
        pixels = [normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).double() for image in pixels]
        outputs = model(nested_tensor_from_tensor_list(pixels))
        layers = [*outputs["aux_outputs"], outputs]
        for kind in ("logits", "boxes"):
            tensors[f"{key_of(sizes)}.{kind}"] = torch.stack([layer[f"pred_{kind}"] for layer in layers]).float()
        if "pred_masks" in outputs:
            tensors[f"{key_of(sizes)}.masks"] = outputs["pred_masks"][..., ::3, ::3].float()
    write(name, ORIGINALS[name].repository, commit_of(checkout), shapes_of(model), tensors)


if __name__ == "__main__":
    record(sys.argv[1], Path(sys.argv[2]))
