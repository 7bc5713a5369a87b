"""DINO's additions to the Deformable DETR head: mixed query selection and refined positions."""

import math
from typing import Any

import torch
from torch import Tensor

from densevit.interfaces import Class
from densevit.set_prediction.levels import valid_ratio
from densevit.set_prediction.transformer import Transformer
from densevit_heads.deformable_detr import DeformableDetr
from densevit_heads.dino import Dino
from densevit_heads.dino.queries import MixedQuerySelection
from tests.heads.padded_batch import CLASSES, SIZES, padded_batch, perturbed

CHANNELS, STRIDES = (6, 10), (8, 16)
NONE: dict[str, Any] = {  # of DINO's additions to a two-stage Deformable DETR
    "kind": Dino, "contrastive_denoising": 0, "mixed_query_selection": False, "refined_positions": False,
    "class_proposals": False, "look_forward_twice": False,
}  # fmt: skip
LAYERS = {"width": 64, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 3, "feedforward": 24, "dropout": 0.0}


def make_head(classes: list[Class] = CLASSES, **options: Any) -> Any:
    """options: also `kind`, the class, and the fields of `Transformer`."""
    transformer = Transformer(**{name: options.pop(name, value) for name, value in LAYERS.items()})
    kind = options.pop("kind", DeformableDetr)
    return perturbed(kind(CHANNELS, STRIDES, classes, **{"num_queries": 7, "transformer": transformer, **options}))


def make_batch(*counts: int, sizes: Any = SIZES) -> Any:
    return padded_batch(counts, ((6, 8), (10, 16)), sizes, len(CLASSES))


def test_mixed_query_selection_takes_positions_from_proposals_and_learned_contents():
    """DINO, section 3.4: the same contents for all images, by rank; the position is embedded from the selected box."""
    head = make_head(**NONE | {"mixed_query_selection": True}).eval()
    features, mask, _ = make_batch(1, 1, 1)
    levels = head.levels(features, mask)
    selection = head.queries
    assert isinstance(selection, MixedQuerySelection)
    proposals = selection.propose(levels.tokens, levels)
    boxes = selection.best(proposals)[1].detach()
    queries = selection.queries(boxes)
    for b in range(3):
        scores = proposals.logits[b, :, 0].masked_fill(levels.padding[b], -torch.inf)
        for rank, cell in enumerate(scores.argsort(descending=True)[:7].tolist()):
            torch.testing.assert_close(boxes[b, rank], proposals.boxes[b, cell])
            assert torch.equal(queries.contents[b, rank], selection.contents.weight[rank])
            angles = 2 * math.pi * boxes[b, rank, :, None] / 10000 ** (2 * torch.arange(16) / 32)  # (4, 16)
            sines = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten()  # (2C,)
            expected = selection.embed_norm(selection.embed(sines))
            torch.testing.assert_close(queries.positions[b, rank], expected, rtol=1e-4, atol=1e-4)
    assert queries.contents.requires_grad


def test_refined_positions_are_dinos_for_the_boxes_of_each_layer():
    """The authors' `gen_sineembed_for_position`, with y before x, and `ref_point_head`, on the finest map's grid."""
    head = make_head(kind=Dino, contrastive_denoising=10, num_queries=90).eval()
    features, mask, _ = make_batch(1, 1, 1)
    calls: list[tuple[Tensor, Tensor]] = []
    for layer in head.decoder:
        layer.register_forward_pre_hook(lambda _, arguments: calls.append((arguments[1], arguments[2])))
    boxes = head(features, mask)["layers"][1]
    ratio = valid_ratio(mask)[:, None].repeat(1, 1, 2)  # of the stride 8, which divides all sizes
    for number, (positions, on_maps) in enumerate(calls):
        if number:
            torch.testing.assert_close(on_maps[:, :, 0], boxes[number - 1] * ratio)
        dim = 10000 ** (2 * torch.div(torch.arange(32), 2, rounding_mode="floor") / 32)
        encoded = []
        for coordinate in (1, 0, 2, 3):
            angles = on_maps[:, :, 0, coordinate, None] * 2 * math.pi / dim
            encoded.append(torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(2))
        first, second = (m for m in head.queries.embed.modules() if isinstance(m, torch.nn.Linear))
        x, y, rest = first.weight.split([32, 32, 64], dim=1)
        hidden = (torch.cat(encoded, dim=-1) @ torch.cat([y, x, rest], dim=1).T + first.bias).relu()
        torch.testing.assert_close(positions, hidden @ second.weight.T + second.bias, rtol=1e-4, atol=1e-4)
    assert len(calls) == 3 and not torch.equal(calls[0][0], calls[1][0])
