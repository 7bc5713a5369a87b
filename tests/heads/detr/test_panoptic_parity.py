"""The panoptic DETR head against transformers' DetrForSegmentation, with the same weights, features and targets."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Targets
from densevit.losses.context import LossContext
from densevit.set_prediction.transformer import Transformer
from densevit_heads.detr.panoptic import DetrPanoptic
from tests.heads.detr.test_parity import ROUNDING
from tests.heads.transformers_pairs import gradients, randomise, renamed, same_gradients, same_losses

CLASSES = [Class(f"class {i}", i + 1, (0, 0, 0), thing=i < 3) for i in range(5)]
CHANNELS, STRIDES = (8, 12, 16, 20), (4, 8, 16, 32)
LAYERS = 3
SIZES = [(100, 140), (70, 143), (122, 90), (128, 48)]  # the padded batch, 128 x 143, is not a multiple of the strides
LAYOUT = "transformers-detr-panoptic", "panoptic"


def run(theirs: Any, images: Tensor, mask: Tensor, labels: Any) -> tuple[Any, list[Tensor]]:
    """The output of transformers' model, and the features, which have gradients."""
    features: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        features[:] = [(x / x.std()).detach().requires_grad_() for x, _ in output]
        return [(x, mask) for x, (_, mask) in zip(features, output, strict=True)]

    with theirs.detr.model.backbone.register_forward_hook(keep):
        return theirs(images, pixel_mask=(~mask).long(), labels=labels), features


def panoptic_map(size: tuple[int, int], count: int) -> Tensor:
    """`count` rectangles of random classes; each hides a part of those before. The rest is a segment too: void, which
    is background in transformers, is unlabelled here."""
    (h, w), found = size, torch.full(size, 2999, dtype=torch.int32)
    for number in range(count):
        y, x = number * h // 12 + int(torch.randint(h // 12, ())), number * w // 12 + int(torch.randint(w // 12, ()))
        height, width = int(torch.randint(h // 4, h // 2, ())), int(torch.randint(w // 4, w // 2, ()))
        found[y : y + height, x : x + width] = int(torch.randint(len(CLASSES), ())) * 1000 + number
    return found


def make_pair() -> tuple[Any, DetrPanoptic]:
    """transformers' model and ours with the same weights."""
    from transformers import DetrConfig, DetrForSegmentation, ResNetConfig

    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=CHANNELS, depths=[1] * 4, layer_type="basic", out_features=stages
    )
    config = DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, num_labels=len(CLASSES), num_queries=8, d_model=256,
        encoder_layers=2, encoder_ffn_dim=48, encoder_attention_heads=8,
        decoder_layers=LAYERS, decoder_ffn_dim=48, decoder_attention_heads=8,
        dropout=0.0, mask_loss_coefficient=3, dice_loss_coefficient=7,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = DetrForSegmentation(config).eval()
    randomise(theirs, 0.07, {"query_position": 3.0})  # distinct queries, within fp32 precision
    theirs.mask_head.conv1.conv.weight.data[:, 256:] *= 300  # attention maps sum to 1: masks of queries differ by them
    detr: dict[str, Any] = {"num_queries": 8, "transformer": Transformer(256, 8, 2, LAYERS, 48, dropout=0.0)}
    detr["auxiliary_losses"] = False
    ours = DetrPanoptic(CHANNELS, STRIDES, CLASSES, detr, mask_weight=3.0, dice_weight=7.0).eval()
    ours.load_state_dict(renamed(theirs.state_dict(), *LAYOUT), strict=True)
    return theirs, ours


def make_batch() -> tuple[Tensor, Tensor, list[dict[str, Tensor]], list[Targets]]:
    """Images, their padding mask, and their segments for transformers and for ours."""
    from torchvision.ops import masks_to_boxes

    H, W = (max(size[axis] for size in SIZES) for axis in (0, 1))
    images, padding_mask = torch.zeros(len(SIZES), 3, H, W), torch.ones(len(SIZES), H, W, dtype=torch.bool)
    labels, targets = [], []
    for i, ((h, w), count) in enumerate(zip(SIZES, [3, 0, 6, 1], strict=True)):
        images[i, :, :h, :w], padding_mask[i, :h, :w] = torch.randn(3, h, w), False
        panoptic = panoptic_map((h, w), count)
        ids = panoptic.unique()
        assert len(ids) == count + 1
        masks = panoptic == ids[:, None, None]
        corners = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
        corners = corners / torch.tensor([w, h, w, h])
        boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
        labels.append({"class_labels": (ids // 1000).long(), "boxes": boxes, "masks": masks.float()})
        targets.append({"panoptic": panoptic, "size": (h, w), "image_id": i})
    return images, padding_mask, labels, targets


@pytest.mark.parametrize("training", [False, True], ids=["all masks", "matched masks"])
def test_outputs_losses_and_gradients_match_transformers(training: bool) -> None:
    """In training only the masks of matched queries are computed: the losses and gradients are the same."""
    theirs, ours = make_pair()
    images, mask, labels, targets = make_batch()
    output, features = run(theirs, images, mask, labels)
    own_features = [x.detach().clone().requires_grad_() for x in features]
    ours.train(training)
    outputs = ours(own_features, mask, targets if training else None)
    losses = ours.loss(outputs, targets, LossContext())

    assert output.logits.std(dim=1).mean() > 0.01, "queries should differ, or the comparison shows nothing"
    torch.testing.assert_close(outputs["logits"], output.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["boxes"], output.pred_boxes, rtol=1e-4, atol=1e-5)
    if not training:
        assert output.pred_masks.std(dim=1).mean() > 0.05
        assert outputs["masks"].shape == (4, 8, 32, 36)
        torch.testing.assert_close(outputs["masks"], output.pred_masks, rtol=1e-4, atol=1e-4)

    names = {
        "label": ("loss_ce", 1),
        "l1": ("loss_bbox", 5),
        "giou": ("loss_giou", 2),
        "mask": ("loss_mask", 3),
        "dice": ("loss_dice", 7),
    }
    same_losses(losses, {name: weight * output.loss_dict[term] for name, (term, weight) in names.items()})
    torch.testing.assert_close(sum(losses.values()), output.loss, rtol=1e-4, atol=1e-6)
    output.loss.backward()
    sum(losses.values()).backward()
    same_gradients(renamed(gradients(theirs), *LAYOUT), ours, (features, own_features), ROUNDING)
