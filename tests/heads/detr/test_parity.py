"""The DETR head against transformers' DetrForObjectDetection, with the same weights, images and targets."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Targets
from densevit.losses.context import LossContext
from densevit.losses.matching import Objects, hungarian
from densevit.losses.set_losses import softmax_set_losses
from densevit.set_prediction.transformer import Transformer
from densevit_heads.detr import Detr
from tests.heads.transformers_pairs import CLASSES, gradients, randomise, renamed, same_gradients, scene

LAYERS = 3
SIZES = [(50, 70), (37, 71), (61, 45), (64, 24)]  # no multiple of the stride among the first three
LAYOUT = "transformers-detr", "detection"
# A softmax does not see what is added to all keys, and the first queries are all zero.
ROUNDING = r"attention\.key\.bias|decoder\.0\.self_attention\.(query|key|value\.weight)"


@dataclass
class Pair:
    """transformers' model and ours with the same weights, and a batch."""

    theirs: Any  # DetrForObjectDetection
    ours: Detr
    images: Tensor
    padding_mask: Tensor
    labels: list[dict[str, Tensor]]  # for transformers
    targets: list[Targets]  # for ours

    def run_theirs(self) -> tuple[Any, Tensor, Tensor, Tensor]:
        """Returns the output, logits and boxes of each decoder layer (L, B, Q, ...), and the features with gradient.

        Layer outputs come from hooks on the layers: with `auxiliary_loss`, transformers feeds the normalised output of
        a layer to the next one, unlike the paper and DETR's own code.
        """
        captured: dict[str, Tensor] = {}

        def keep_features(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            captured["features"] = (inputs[0] / inputs[0].std()).detach().requires_grad_()
            return (captured["features"],)

        states: list[Tensor] = []
        hooks = [self.theirs.model.input_projection.register_forward_pre_hook(keep_features)]
        for layer in self.theirs.model.decoder.layers:
            hooks.append(layer.register_forward_hook(lambda module, inputs, output: states.append(output)))
        output = self.theirs(self.images, pixel_mask=(~self.padding_mask).long(), labels=self.labels)
        for hook in hooks:
            hook.remove()
        normalised = self.theirs.model.decoder.layernorm(torch.stack(states))
        boxes = self.theirs.bbox_predictor(normalised).sigmoid()
        return output, self.theirs.class_labels_classifier(normalised), boxes, captured["features"]


def make_pair(positions: str) -> Pair:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, num_labels=len(CLASSES), num_queries=8, d_model=32,
        encoder_layers=2, encoder_ffn_dim=48, encoder_attention_heads=4,
        decoder_layers=LAYERS, decoder_ffn_dim=48, decoder_attention_heads=4,
        position_embedding_type=positions, dropout=0.0,
    )  # fmt: skip
    theirs = DetrForObjectDetection(config).eval()
    # distinct queries, within fp32 precision
    randomise(theirs, 0.2, {"query_position": 3.0})
    ours = Detr((12,), (8,), CLASSES, 8, Transformer(32, 4, 2, LAYERS, 48, 0.0), positions=positions).eval()  # type: ignore[arg-type]
    ours.load_state_dict(renamed(theirs.state_dict(), *LAYOUT), strict=True)
    padding_mask, labels, targets = scene(SIZES, [3, 0, 6, 1], len(CLASSES))
    images = torch.randn(len(SIZES), 3, *padding_mask.shape[1:]).masked_fill(padding_mask[:, None], 0.0)
    return Pair(theirs, ours, images, padding_mask, labels, targets)


@pytest.mark.parametrize("positions", ["sine", "learned"])
def test_every_layer_matches_transformers(positions: str):
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    pair = make_pair(positions)
    _, their_logits, their_boxes, features = pair.run_theirs()
    config = copy.deepcopy(pair.theirs.config)
    config.auxiliary_loss = True
    total, terms, _ = ForObjectDetectionLoss(
        their_logits[-1], pair.labels, torch.device("cpu"), their_boxes[-1], config, their_logits, their_boxes
    )

    own_features = features.detach().clone().requires_grad_()
    outputs = pair.ours([own_features], pair.padding_mask)
    logits, boxes = outputs["layers"]
    assert their_logits.std(dim=2).mean() > 0.01, "queries should differ, or the comparison shows nothing"
    torch.testing.assert_close(logits, their_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(boxes, their_boxes, rtol=1e-4, atol=1e-5)

    objects = Objects.of(pair.targets, logits.device)
    matches = hungarian(logits, boxes, objects)
    ours = softmax_set_losses(logits, boxes, objects, matches, LossContext(), 0.1)
    for layer in range(LAYERS):
        suffix = "" if layer == LAYERS - 1 else f"_{layer}"
        for own, name in zip(ours, ("loss_ce", "loss_bbox", "loss_giou"), strict=True):
            torch.testing.assert_close(own[layer], terms[name + suffix], rtol=1e-4, atol=1e-6)

    losses = pair.ours.loss(outputs, pair.targets, LossContext())
    assert set(losses) == {"label", "l1", "giou", "auxiliary"}
    earlier = sum(
        weight * terms[f"{name}_{layer}"]
        for name, weight in (("loss_ce", 1), ("loss_bbox", 5), ("loss_giou", 2))
        for layer in range(LAYERS - 1)
    )
    torch.testing.assert_close(losses["auxiliary"], earlier, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sum(losses.values()), total, rtol=1e-4, atol=1e-6)
    total.backward()
    sum(losses.values()).backward()
    same_gradients(renamed(gradients(pair.theirs), *LAYOUT), pair.ours, ([features], [own_features]), ROUNDING)
