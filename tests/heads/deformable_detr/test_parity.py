"""The Deformable DETR head against transformers' DeformableDetrForObjectDetection: same weights, features and targets.

Differences that the comparison leaves out, because transformers differs from the authors' code there: with refinement
transformers 5 shares the class layer of all decoder layers, and it has no loss on the encoder's proposals. Features of
padding are 0 in both: ours sets them to 0.
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class, Targets
from densevit.losses.context import LossContext
from densevit.set_prediction.transformer import Transformer
from densevit_heads.deformable_detr import DeformableDetr
from tests.heads.transformers_pairs import gradients, randomise, renamed, same_gradients, scene

if TYPE_CHECKING:
    from transformers import DeformableDetrForObjectDetection


CLASSES = [Class(f"class {i}", i + 1, (0, 0, 0)) for i in range(5)]
LAYERS, QUERIES = 3, 8
CHANNELS, STRIDES = (12, 16), (4, 8)
SIZES = [(50, 220), (37, 237), (61, 145), (64, 90)]
COUNTS = [3, 0, 6, 1]
WEIGHTS = {"label": ("loss_ce", 2), "l1": ("loss_bbox", 5), "giou": ("loss_giou", 2)}

MODES: dict[str, dict[str, Any]] = {
    "single-scale": {"num_levels": 1},
    "multi-scale": {},
    "refined": {"box_refinement": True},
    "two-stage": {"box_refinement": True, "two_stage": True},
}
every_mode = pytest.mark.parametrize("options", MODES.values(), ids=MODES)
LAYOUT = "transformers-deformable-detr", "detection"


class GivenFeatures(nn.Module):
    """A backbone of transformers that returns given features, with masks as theirs, and 0 at padding."""

    def __init__(self, features: list[Tensor]) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        masks = [F.interpolate(pixel_mask[None].float(), size=x.shape[-2:]).to(torch.bool)[0] for x in self.features]
        return [(x * mask[:, None], mask) for x, mask in zip(self.features, masks, strict=True)]


@dataclass
class Pair:
    """transformers' model and ours with the same weights, and a batch."""

    theirs: "DeformableDetrForObjectDetection"
    ours: DeformableDetr
    features: list[Tensor]
    padding_mask: Tensor
    labels: list[dict[str, Tensor]]  # for transformers
    targets: list[Targets]  # for ours

    def run_theirs(self) -> tuple[Any, dict[str, Tensor], list[Tensor]]:
        """The output, the losses by transformers' names, `_enc` for the proposals, and the features with gradients."""
        from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

        features = [x.clone().requires_grad_() for x in self.features]
        self.theirs.model.backbone = GivenFeatures(features[-1:] if len(self.ours.levels.features) == 1 else features)
        images = torch.zeros(len(SIZES), 3, *self.padding_mask.shape[1:])
        output = self.theirs(images, pixel_mask=(~self.padding_mask).long(), labels=self.labels)
        terms = dict(output.loss_dict)
        if output.enc_outputs_class is not None:
            matcher = DeformableDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2)
            criterion = DeformableDetrImageLoss(matcher, len(CLASSES), 0.25, ["labels", "boxes"])
            binary = [{**label, "class_labels": torch.zeros_like(label["class_labels"])} for label in self.labels]
            proposals = {"logits": output.enc_outputs_class, "pred_boxes": output.enc_outputs_coord_logits.sigmoid()}
            terms |= {f"{name}_enc": term for name, term in criterion(proposals, binary).items()}
        return output, terms, features

    def run_ours(self) -> tuple[Any, dict[str, Tensor], list[Tensor]]:
        features = [x.clone().requires_grad_() for x in self.features]
        outputs = self.ours(features, self.padding_mask)
        return outputs, self.ours.loss(outputs, self.targets, LossContext()), features


def make_pair(num_levels: int = 4, box_refinement: bool = False, two_stage: bool = False) -> Pair:
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, *CHANNELS],
        depths=[1, 1, 1],
        layer_type="basic",
        out_features=["stage3"] if num_levels == 1 else ["stage2", "stage3"],
    )
    config = DeformableDetrConfig(
        backbone_config=backbone,
        num_labels=len(CLASSES),
        num_queries=QUERIES,
        d_model=64,
        encoder_layers=2,
        decoder_layers=LAYERS,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_feature_levels=num_levels,
        encoder_n_points=3,
        decoder_n_points=3,
        with_box_refine=box_refinement,
        two_stage=two_stage,
        two_stage_num_proposals=QUERIES,
        auxiliary_loss=True,
        class_cost=2,
        dropout=0.0,
    )
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
    options: dict[str, Any] = {"num_levels": num_levels, "box_refinement": box_refinement, "two_stage": two_stage}
    transformer = Transformer(64, 4, 2, LAYERS, 48, dropout=0.0)
    ours = DeformableDetr(
        CHANNELS, STRIDES, CLASSES, QUERIES, transformer, min_stride=4, num_points=3, **options
    ).eval()
    ours.load_state_dict(renamed(theirs.state_dict(), *LAYOUT), strict=True)
    padding_mask, labels, targets = scene(SIZES, COUNTS, len(CLASSES))
    H, W = padding_mask.shape[1:]
    features = [torch.randn(len(SIZES), c, -(-H // s), -(-W // s)) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    return Pair(theirs, ours, features, padding_mask, labels, targets)


def weighted(terms: dict[str, Tensor], suffix: str) -> Tensor:
    return torch.stack([weight * terms[name + suffix] for name, weight in WEIGHTS.values()]).sum()


@every_mode
def test_outputs_losses_and_gradients_match_transformers(options: dict[str, Any]):
    pair = make_pair(**options)
    output, terms, their_features = pair.run_theirs()
    outputs, losses, features = pair.run_ours()

    logits, boxes = outputs["layers"]
    their_logits = torch.stack([*(x["logits"] for x in output.auxiliary_outputs), output.logits])
    their_boxes = torch.stack([*(x["pred_boxes"] for x in output.auxiliary_outputs), output.pred_boxes])
    assert their_logits.std(dim=2).mean() > 0.1, "queries should differ, or the comparison shows nothing"
    torch.testing.assert_close(logits, their_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(boxes, their_boxes, rtol=1e-4, atol=1e-5)

    for name, (theirs, weight) in WEIGHTS.items():
        torch.testing.assert_close(losses[name], weight * terms[theirs], rtol=1e-4, atol=1e-6)
    earlier = torch.stack([weighted(terms, f"_{layer}") for layer in range(LAYERS - 1)]).sum()
    torch.testing.assert_close(losses["auxiliary"], earlier, rtol=1e-4, atol=1e-6)
    expected = weighted(terms, "") + earlier
    if "two_stage" in options:
        torch.testing.assert_close(losses["proposals"], weighted(terms, "_enc"), rtol=1e-4, atol=1e-6)
        expected = expected + weighted(terms, "_enc")
    assert list(losses) == ["label", "l1", "giou", "auxiliary", *(["proposals"] if "two_stage" in options else [])]

    expected.backward()
    torch.stack(list(losses.values())).sum().backward()
    wanted, found = renamed(gradients(pair.theirs), *LAYOUT), gradients(pair.ours)
    for i, (theirs, own) in enumerate(zip(their_features, features, strict=True)):
        wanted |= (
            {} if theirs.grad is None else {f"features {i}": theirs.grad}
        )  # a single-scale model has no fine level
        found[f"features {i}"] = own.grad
    same_gradients(wanted, found)
