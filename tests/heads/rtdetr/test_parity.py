"""The RT-DETR head against transformers' RTDetrForObjectDetection and RTDetrV2ForObjectDetection.

They have the same weights, features and targets.

transformers' decoder differs from the authors' in training: the box loss of a layer does not reach the offsets of the
layer before (`look_forward_twice`). Losses are equal; for gradients the comparison detaches ours likewise.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.losses.context import LossContext
from densevit.set_prediction.box_refinement import refine
from densevit.set_prediction.transformer import Transformer
from densevit_heads.parts.hybrid_encoder import HybridEncoderOptions
from densevit_heads.rtdetr import RtDetr
from densevit_heads.rtdetr import head as rtdetr_head
from tests.heads.transformers_pairs import (
    CLASSES,
    GivenFeatures,
    copies,
    keep_statistics,
    renamed,
    same_gradients,
    same_losses,
    scene,
)
from tests.random_weights import randomise

LAYERS, QUERIES = 3, 12
CHANNELS, STRIDES = (6, 8, 12, 16), (4, 8, 16, 32)
SIZE = (96, 160)  # transformers' top-down path needs multiples of 32
COUNTS = [3, 0, 6, 1]
LAYOUTS = {1: ("transformers-rtdetr", "detection"), 2: ("transformers-rtdetrv2", "detection")}


def used(features: list[Tensor], pixel_mask: Tensor | None) -> list[tuple[Tensor, None]]:
    return [(x, None) for x in features[1:]]


def backbone_of(features: list[Tensor]) -> GivenFeatures:
    backbone = GivenFeatures(features, used)
    backbone.intermediate_channel_sizes = CHANNELS[1:]
    return backbone


def make_pair(version: int, expansion: float, sampling: str) -> tuple[Any, RtDetr]:
    """transformers' model, and ours with the same weights."""
    import transformers
    from transformers.models.rt_detr import modeling_rt_detr
    from transformers.models.rt_detr_v2 import modeling_rt_detr_v2

    options: dict[str, Any] = {}
    if version == 2:
        options["decoder_method"] = "default" if sampling == "grid_sample" else sampling
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=4, hidden_sizes=list(CHANNELS), depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    config = (transformers.RTDetrConfig if version == 1 else transformers.RTDetrV2Config)(
        backbone_config=backbone, num_labels=len(CLASSES), num_queries=QUERIES, num_denoising=0,
        encoder_in_channels=list(CHANNELS[1:]), encoder_hidden_dim=24, encoder_ffn_dim=20, encoder_attention_heads=4,
        hidden_expansion=expansion, decoder_in_channels=[24] * 3, d_model=32, decoder_ffn_dim=48,
        decoder_layers=LAYERS, decoder_attention_heads=4, decoder_n_points=3, attn_implementation="eager", **options,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_rt_detr, "RTDetrConvEncoder", lambda _: backbone_of([]))
        patch.setattr(modeling_rt_detr_v2, "RTDetrV2ConvEncoder", lambda _: backbone_of([]))
        theirs = (transformers.RTDetrForObjectDetection if version == 1 else transformers.RTDetrV2ForObjectDetection)(
            config
        ).train()
    ours = RtDetr(
        CHANNELS, STRIDES, CLASSES, QUERIES, HybridEncoderOptions(24, 20, expansion),
        Transformer(32, 4, 1, LAYERS, 48, 0.0), num_points=3, sampling=sampling, contrastive_denoising=0,
    )  # fmt: skip
    randomise(theirs)
    ours.load_state_dict(renamed(theirs.state_dict(), *LAYOUTS[version]))
    keep_statistics(theirs, ours)
    return theirs, ours


def detached_refinement(head: nn.Module, x: Tensor, reference: Tensor, undetached: Tensor, eps: float):
    boxes = refine(head, x, reference, eps)
    return boxes, boxes


@pytest.mark.parametrize(
    ("version", "expansion", "sampling"),
    [(1, 1.0, "grid_sample"), (2, 0.5, "discrete")],
    ids=["v1 wide", "v2 discrete"],
)
def test_outputs_losses_and_gradients(
    version: int, expansion: float, sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients as in transformers: boxes are refined from detached ones."""
    monkeypatch.setattr(rtdetr_head, "look_forward_twice", detached_refinement)
    theirs, ours = make_pair(version, expansion, sampling)
    padding_mask, labels, targets = scene([SIZE] * len(COUNTS), COUNTS, len(CLASSES), degenerate=True)
    maps = [torch.randn(len(COUNTS), c, SIZE[0] // s, SIZE[1] // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    features, own_features = copies(maps)
    theirs.model.backbone = backbone_of(features)
    output = theirs(torch.zeros(len(COUNTS), 3, *SIZE), labels=labels)
    outputs = ours(own_features, padding_mask, targets)
    torch.testing.assert_close(outputs["logits"], output.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs["boxes"], output.pred_boxes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs["proposals"][0], output.enc_topk_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs["proposals"][1], output.enc_topk_bboxes, atol=1e-4, rtol=1e-4)

    terms = {"label": "loss_vfl", "l1": "loss_bbox", "giou": "loss_giou"}

    def total(*outputs: int) -> Tensor:  # of layers before the last and, after them, of the selected cells
        return torch.stack([output.loss_dict[f"{term}_aux_{i}"] for term in terms.values() for i in outputs]).sum()

    expected = {name: output.loss_dict[term] for name, term in terms.items()}
    expected |= {"auxiliary": total(*range(LAYERS - 1)), "proposals": total(LAYERS - 1)}
    losses = ours.loss(outputs, targets, LossContext())
    same_losses(losses, expected, near=1e-4)
    output.loss.backward(), sum(losses.values()).backward()
    given = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in theirs.named_parameters()}
    wanted = renamed(given, *LAYOUTS[version])
    for name, parameter in ours.named_parameters():
        if not parameter.requires_grad:  # offsets of discrete sampling
            assert name not in wanted or not wanted.pop(name).any()
    assert len(wanted) > 100
    same_gradients(wanted, ours, (features[1:], own_features[1:]), rounding="(?!)", least=1.0, tolerance=2e-4)
