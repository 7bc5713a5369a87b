"""The Deformable DETR head against transformers' DeformableDetrForObjectDetection: same weights, features and targets.

Differences that the comparison leaves out, because transformers differs from the authors' code there: with refinement
transformers 5 shares the class layer of all decoder layers, and it has no loss on the encoder's proposals. Features of
padding are 0 in both: ours sets them to 0.
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from densevit.losses.context import LossContext
from densevit.set_prediction.transformer import Transformer
from densevit_heads.deformable_detr import DeformableDetr
from tests.heads.transformers_pairs import (
    CLASSES,
    GivenFeatures,
    copies,
    gradients,
    masks_of,
    randomise,
    renamed,
    same_gradients,
    same_losses,
    scene,
)

LAYERS, QUERIES = 3, 8
CHANNELS, STRIDES = (12, 16), (4, 8)
SIZES = [(50, 220), (37, 237), (61, 145), (64, 90)]
WEIGHTS = {"label": ("loss_ce", 2), "l1": ("loss_bbox", 5), "giou": ("loss_giou", 2)}

MODES: dict[str, dict[str, Any]] = {
    "multi-scale": {},
    "two-stage": {"box_refinement": True, "two_stage": True},
}
LAYOUT = "transformers-deformable-detr", "detection"


def unpadded(features: list[Tensor], pixel_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(x * mask[:, None], mask) for x, mask in zip(features, masks_of(features, pixel_mask), strict=True)]


def make_pair(box_refinement: bool = False, two_stage: bool = False) -> tuple[Any, DeformableDetr]:
    """transformers' model, and ours with the same weights."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, *CHANNELS],
        depths=[1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3"],
    )
    config = DeformableDetrConfig(
        backbone_config=backbone, num_labels=len(CLASSES), num_queries=QUERIES, d_model=64,
        encoder_layers=2, encoder_ffn_dim=48, encoder_attention_heads=4, encoder_n_points=3,
        decoder_layers=LAYERS, decoder_ffn_dim=48, decoder_attention_heads=4, decoder_n_points=3,
        num_feature_levels=4, with_box_refine=box_refinement, two_stage=two_stage,
        two_stage_num_proposals=QUERIES, auxiliary_loss=True, class_cost=2, dropout=0.0,
    )  # fmt: skip
    theirs = DeformableDetrForObjectDetection(config).eval()
    if box_refinement:
        theirs.class_embed, theirs.bbox_embed = copy.deepcopy(theirs.class_embed), copy.deepcopy(theirs.bbox_embed)
        for heads in (theirs.class_embed, theirs.bbox_embed):
            for i in range(len(heads)):
                heads[i] = copy.deepcopy(heads[i])
        theirs.model.decoder.bbox_embed = theirs.bbox_embed
        if two_stage:
            theirs.model.decoder.class_embed = theirs.class_embed
    # distinct queries, and offsets in cells
    randomise(theirs, 0.1, {r"query_position_embeddings\.weight": 1.0, r"sampling_offsets\.bias": 2.0})
    options: dict[str, Any] = {"box_refinement": box_refinement, "two_stage": two_stage}
    transformer = Transformer(64, 4, 2, LAYERS, 48, dropout=0.0)
    ours = DeformableDetr(
        CHANNELS, STRIDES, CLASSES, QUERIES, transformer, min_stride=4, num_points=3, **options
    ).eval()
    ours.load_state_dict(renamed(theirs.state_dict(), *LAYOUT), strict=True)
    return theirs, ours


def weighted(terms: dict[str, Tensor], suffix: str) -> Tensor:
    return torch.stack([weight * terms[name + suffix] for name, weight in WEIGHTS.values()]).sum()


def proposal_terms(output: Any, labels: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The losses of the encoder's proposals, which transformers leaves out, as of the authors' code."""
    from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

    matcher = DeformableDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2)
    criterion = DeformableDetrImageLoss(matcher, len(CLASSES), 0.25, ["labels", "boxes"])
    binary = [{**label, "class_labels": torch.zeros_like(label["class_labels"])} for label in labels]
    proposals = {"logits": output.enc_outputs_class, "pred_boxes": output.enc_outputs_coord_logits.sigmoid()}
    return {f"{name}_enc": term for name, term in criterion(proposals, binary).items()}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_outputs_losses_and_gradients_match_transformers(options: dict[str, Any]):
    theirs, ours = make_pair(**options)
    padding_mask, labels, targets = scene(SIZES, [3, 0, 6, 1], len(CLASSES))
    H, W = padding_mask.shape[1:]
    given = [torch.randn(len(SIZES), c, -(-H // s), -(-W // s)) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    features, own_features = copies(given)
    theirs.model.backbone = GivenFeatures(features, unpadded)
    output = theirs(torch.zeros(len(SIZES), 3, H, W), pixel_mask=(~padding_mask).long(), labels=labels)
    outputs = ours(own_features, padding_mask)

    logits, boxes = outputs["layers"]
    their_logits = torch.stack([*(x["logits"] for x in output.auxiliary_outputs), output.logits])
    their_boxes = torch.stack([*(x["pred_boxes"] for x in output.auxiliary_outputs), output.pred_boxes])
    assert their_logits.std(dim=2).mean() > 0.1, "queries should differ, or the comparison shows nothing"
    torch.testing.assert_close(logits, their_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(boxes, their_boxes, rtol=1e-4, atol=1e-5)

    terms = dict(output.loss_dict)
    expected = {name: weight * terms[term] for name, (term, weight) in WEIGHTS.items()}
    expected["auxiliary"] = torch.stack([weighted(terms, f"_{layer}") for layer in range(LAYERS - 1)]).sum()
    if "two_stage" in options:
        expected["proposals"] = weighted(proposal_terms(output, labels), "_enc")
    losses = ours.loss(outputs, targets, LossContext())
    same_losses(losses, expected)
    sum(expected.values()).backward(), sum(losses.values()).backward()
    same_gradients(renamed(gradients(theirs), *LAYOUT), ours, (features, own_features))
