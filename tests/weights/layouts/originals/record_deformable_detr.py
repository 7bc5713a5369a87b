"""Records what the authors' code of Deformable DETR computes, for `test_deformable_detr_originals.py`.

    python -m tests.weights.layouts.originals.record_deformable_detr CHECKOUT

CHECKOUT: a clone of fundamentalvision/Deformable-DETR, whose CUDA operator is replaced by the function that it is
tested against there. Writes deformable-detr-MODE.safetensors beside this file: the class logits and the boxes of a
padded batch of two images; the names and shapes of the tensors, and for each shared one the name of the first; the
commit. Images are those of `record_swin.py`, weights those of `random_weights`.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.weights.layouts.originals import record_vit
from tests.weights.layouts.originals.record_swin import random_image
from tests.weights.layouts.originals.record_vit import HERE, commit_of, shapes_of

SIZES = ((97, 131), (64, 90))  # of the images of the batch
MODES: dict[str, dict[str, Any]] = {
    "single-scale": {"num_feature_levels": 1},
    "multi-scale": {},
    "refined": {"with_box_refine": True},
    "two-stage": {"with_box_refine": True, "two_stage": True, "hidden_dim": 256},  # the only width it works with
}
SMALL: dict[str, Any] = {
    "dataset_file": "coco", "device": "cpu", "backbone": "resnet50", "lr_backbone": 1.0, "masks": False,
    "dilation": False, "position_embedding": "sine", "hidden_dim": 64, "nheads": 8, "enc_layers": 2, "dec_layers": 3,
    "dim_feedforward": 48, "dropout": 0.0, "num_feature_levels": 4, "dec_n_points": 4, "enc_n_points": 4,
    "num_queries": 20, "aux_loss": True, "with_box_refine": False, "two_stage": False, "frozen_weights": None,
    "cls_loss_coef": 1.0, "bbox_loss_coef": 1.0, "giou_loss_coef": 1.0, "set_cost_class": 1.0, "set_cost_bbox": 1.0,
    "set_cost_giou": 1.0, "focal_alpha": 0.25,
}  # fmt: skip


def random_weights(shapes: Mapping[str, Sequence[int]], shared: Mapping[str, str]) -> dict[str, Tensor]:
    """Those of `record_vit`, with queries that differ by their norm, and offsets of some cells."""
    state = record_vit.random_weights(shapes)
    scales = {"query_embed": 20.0, "sampling_offsets.bias": 5.0}
    state = {name: x * next((by for part, by in scales.items() if part in name), 1.0) for name, x in state.items()}
    state = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}  # norms are frozen
    return {name: state[shared.get(name, name)] for name in state}


def _import(checkout: Path) -> ModuleType:
    """The package `models`, in the torchvision of its time, without weights and without its CUDA operator."""
    torchvision.__version__ = "0.9.0"
    resnet50 = torchvision.models.resnet50
    torchvision.models.resnet50 = lambda pretrained, **options: resnet50(**options)
    sys.modules["MultiScaleDeformableAttention"] = ModuleType("MultiScaleDeformableAttention")
    sys.path.insert(0, str(checkout))
    import models
    from models.ops.functions import ms_deform_attn_func
    from models.ops.modules import ms_deform_attn

    class Function:
        @staticmethod
        def apply(x: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, weights: Tensor, step: int) -> Tensor:
            found: Tensor = ms_deform_attn_func.ms_deform_attn_core_pytorch(x, shapes, places, weights)
            return found

    ms_deform_attn.MSDeformAttnFunction = Function
    return models  # type: ignore[no-any-return]


def _shared(model: nn.Module) -> dict[str, str]:
    """The first name of the tensor that each name stands for."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(x), name) for name, x in model.state_dict(keep_vars=True).items()}
    return {name: one for name, one in names.items() if name != one}


@torch.no_grad()
def record(checkout: Path) -> None:
    models = _import(checkout)
    images = [random_image(*size)[0] for size in SIZES]
    for mode, options in MODES.items():
        torch.manual_seed(0)
        model, *_ = models.build_model(Namespace(**SMALL | options))
        shapes, shared = shapes_of(model), _shared(model)
        model.load_state_dict(random_weights(shapes, shared))
        outputs = model.eval()(images)
        tensors = {"logits": outputs["pred_logits"].contiguous(), "boxes": outputs["pred_boxes"].contiguous()}
        metadata = {"repository": "fundamentalvision/Deformable-DETR", "commit": commit_of(checkout)}
        metadata |= {"shapes": json.dumps(shapes), "shared": json.dumps(shared)}
        save_file(tensors, HERE / f"deformable-detr-{mode}.safetensors", metadata)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
