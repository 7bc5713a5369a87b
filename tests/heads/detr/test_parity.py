"""The DETR head against transformers' DetrForObjectDetection, with the same weights, images and targets."""

import copy
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Targets
from densevit.losses.boxes import to_corners
from densevit.losses.context import LossContext
from densevit.losses.matching import MatchingCosts, Objects, hungarian
from densevit.losses.set_losses import LossWeights
from densevit.set_prediction.transformer import Transformer
from densevit_heads.detr import Detr

if TYPE_CHECKING:
    from transformers import DetrForObjectDetection


CLASSES = [Class(f"class {i}", i + 1, (0, 0, 0)) for i in range(5)]
LAYERS = 3
SIZES = [(50, 70), (37, 71), (61, 45), (64, 24)]  # no multiple of the stride among the first three
COUNTS = [3, 0, 6, 1]

# transformers' parameter name -> ours, as regular expressions; the first match is used
NAMES = [
    (r"model\.query_position_embeddings\.(.*)", r"query_embedding.\1"),
    (r"model\.input_projection\.(.*)", r"project.project.\1"),
    (r"model\.position_embedding\.(row|column)_embeddings\.weight", r"positions.\1s"),
    (r"model\.(encoder|decoder)\.layers\.(\d)\.self_attn\.(q|k|v|o)_proj\.(.*)", r"\1.\2.self_attention.\3.\4"),
    (r"model\.decoder\.layers\.(\d)\.encoder_attn\.(q|k|v|o)_proj\.(.*)", r"decoder.\1.cross_attention.\2.\3"),
    (r"model\.(encoder|decoder)\.layers\.(\d)\.mlp\.fc1\.(.*)", r"\1.\2.feedforward.expand.\3"),
    (r"model\.(encoder|decoder)\.layers\.(\d)\.mlp\.fc2\.(.*)", r"\1.\2.feedforward.contract.\3"),
    (r"model\.(encoder|decoder)\.layers\.(\d)\.self_attn_layer_norm\.(.*)", r"\1.\2.residuals.0.norm.\3"),
    (r"model\.decoder\.layers\.(\d)\.encoder_attn_layer_norm\.(.*)", r"decoder.\1.residuals.1.norm.\2"),
    (r"model\.encoder\.layers\.(\d)\.final_layer_norm\.(.*)", r"encoder.\1.residuals.1.norm.\2"),
    (r"model\.decoder\.layers\.(\d)\.final_layer_norm\.(.*)", r"decoder.\1.residuals.2.norm.\2"),
    (r"model\.decoder\.layernorm\.(.*)", r"decoder_norm.\1"),
    (r"class_labels_classifier\.(.*)", r"label_head.\1"),
    (r"bbox_predictor\.layers\.0\.(.*)", r"box_head.0.\1"),
    (r"bbox_predictor\.layers\.1\.(.*)", r"box_head.2.\1"),
    (r"bbox_predictor\.layers\.2\.(.*)", r"box_head.4.\1"),
]
PROJECTIONS = {"q": "query", "k": "key", "v": "value", "o": "output"}


def our_name(name: str) -> str:
    for theirs, ours in NAMES:
        if re.fullmatch(theirs, name):
            mapped = re.sub(theirs, ours, name)
            return re.sub(r"attention\.(q|k|v|o)\.", lambda match: f"attention.{PROJECTIONS[match[1]]}.", mapped)
    raise AssertionError(f"{name} of transformers has no counterpart")


@dataclass
class Pair:
    """transformers' model and ours with the same weights, and a batch."""

    theirs: "DetrForObjectDetection"
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


def make_pair(positions: str = "sine", **options: Any) -> Pair:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = DetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        num_labels=len(CLASSES),
        num_queries=8,
        d_model=32,
        encoder_layers=2,
        decoder_layers=LAYERS,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        position_embedding_type=positions,
        dropout=0.0,
    )
    theirs = DetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            spread = 3.0 if "query_position" in name else 0.2  # distinct queries, within fp32 precision
            parameter.copy_(spread * torch.randn_like(parameter) + (1.0 if "norm.weight" in name else 0.0))
    ours = Detr((12,), (8,), CLASSES, 8, Transformer(32, 4, 2, LAYERS, 48, 0.0), positions=positions, **options).eval()  # type: ignore[arg-type]
    weights = {k: v for k, v in theirs.state_dict().items() if not k.startswith("model.backbone.")}
    ours.load_state_dict({our_name(name): value for name, value in weights.items()}, strict=True)

    H, W = (max(size[axis] for size in SIZES) for axis in (0, 1))
    images, padding_mask = torch.zeros(len(SIZES), 3, H, W), torch.ones(len(SIZES), H, W, dtype=torch.bool)
    labels, targets = [], []
    for i, ((h, w), count) in enumerate(zip(SIZES, COUNTS, strict=True)):
        images[i, :, :h, :w], padding_mask[i, :h, :w] = torch.randn(3, h, w), False
        boxes = torch.cat([0.3 + 0.4 * torch.rand(count, 2), 0.1 + 0.4 * torch.rand(count, 2)], dim=1)
        classes = torch.randint(len(CLASSES), (count,))
        labels.append({"class_labels": classes, "boxes": boxes})
        absolute = to_corners(boxes) * torch.tensor([w, h, w, h])
        targets.append({"boxes": absolute, "labels": classes, "size": (h, w), "image_id": i})
    return Pair(theirs, ours, images, padding_mask, labels, targets)


def same_gradients(pair: Pair, theirs: Tensor, ours: Tensor) -> None:
    """Of features and of every parameter but the backbone's, to 1e-4 of the largest in each tensor."""
    found = dict(pair.ours.named_parameters())
    wanted = {name: p for name, p in pair.theirs.named_parameters() if not name.startswith("model.backbone.")}
    assert {our_name(name) for name in wanted} == set(found)
    pairs = {"features": (theirs.grad, ours.grad)}
    pairs |= {name: (p.grad, found[our_name(name)].grad) for name, p in wanted.items()}
    for name, (theirs_grad, ours_grad) in pairs.items():
        scale = theirs_grad.abs().max()
        if re.search(r"k_proj\.bias|decoder\.layers\.0\.self_attn\.([qk]_proj|v_proj\.weight)", name):
            # A softmax does not see what is added to all keys, and the first queries are all zero: rounding errors.
            assert max(scale, ours_grad.abs().max()) < 1e-6, name
        else:
            assert scale > 1e-4, f"{name} has no gradient to compare"
            assert (theirs_grad - ours_grad).abs().max() <= 1e-4 * scale, name


@pytest.mark.parametrize("positions", ["sine", "learned"])
def test_last_layer_matches_transformers(positions: str):
    pair = make_pair(positions, auxiliary_losses=False)
    output, _, _, features = pair.run_theirs()
    own_features = features.detach().clone().requires_grad_()
    outputs = pair.ours([own_features], pair.padding_mask)
    losses = pair.ours.loss(outputs, pair.targets, LossContext())

    assert output.logits.std(dim=1).mean() > 0.01, "queries should differ, or the comparison shows nothing"
    torch.testing.assert_close(outputs["logits"], output.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["boxes"], output.pred_boxes, rtol=1e-4, atol=1e-5)

    weights = {"label": ("loss_ce", 1), "l1": ("loss_bbox", 5), "giou": ("loss_giou", 2)}
    assert set(losses) == set(weights)
    for name, (theirs, weight) in weights.items():
        torch.testing.assert_close(losses[name], weight * output.loss_dict[theirs], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sum(losses.values()), output.loss, rtol=1e-4, atol=1e-6)
    output.loss.backward()
    sum(losses.values()).backward()
    same_gradients(pair, features, own_features)


def test_every_layer_matches_transformers():
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss, HungarianMatcher

    pair = make_pair()
    _, their_logits, their_boxes, features = pair.run_theirs()
    config = copy.deepcopy(pair.theirs.config)
    config.auxiliary_loss = True
    total, terms, _ = ForObjectDetectionLoss(
        their_logits[-1], pair.labels, torch.device("cpu"), their_boxes[-1], config, their_logits, their_boxes
    )

    own_features = features.detach().clone().requires_grad_()
    outputs = pair.ours([own_features], pair.padding_mask)
    logits, boxes = outputs["layers"]
    torch.testing.assert_close(logits, their_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(boxes, their_boxes, rtol=1e-4, atol=1e-5)

    objects = Objects.of(pair.targets, logits.device)
    matches = hungarian(logits, boxes, objects)
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    first = [sum(COUNTS[:i]) for i in range(len(COUNTS))]
    wanted = {
        (layer, image, query, first[image] + target)
        for layer in range(LAYERS)
        for image, pairs in enumerate(
            matcher({"logits": their_logits[layer], "pred_boxes": their_boxes[layer]}, pair.labels)
        )
        for query, target in zip(*(indices.tolist() for indices in pairs), strict=True)
    }
    assert len(wanted) == LAYERS * sum(COUNTS)
    assert set(zip(*(indices.tolist() for indices in matches), strict=True)) == wanted

    ours = pair.ours.criterion.terms(logits, boxes, objects, matches, LossContext())
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
    same_gradients(pair, features, own_features)


def test_costs_weights_and_no_object_weight_reach_matching_and_loss():
    """With values that differ from the defaults and from each other."""
    options = {"costs": MatchingCosts(3.0, 2.0, 7.0), "loss_weights": LossWeights(1.0, 4.0, 3.0)}
    pair = make_pair(auxiliary_losses=False, no_object_weight=0.4, **options)
    config = pair.theirs.config
    config.class_cost, config.bbox_cost, config.giou_cost, config.eos_coefficient = 3, 2, 7, 0.4
    config.bbox_loss_coefficient, config.giou_loss_coefficient = 4, 3
    output, _, _, features = pair.run_theirs()
    outputs = pair.ours([features], pair.padding_mask)
    losses = pair.ours.loss(outputs, pair.targets, LossContext())
    torch.testing.assert_close(losses["label"], output.loss_dict["loss_ce"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sum(losses.values()), output.loss, rtol=1e-4, atol=1e-6)
    plain = make_pair(auxiliary_losses=False)
    objects = Objects.of(pair.targets, features.device)
    chosen = [
        hungarian(outputs["layers"][0], outputs["layers"][1], objects, weights).query.tolist()
        for weights in (plain.ours.criterion.costs, MatchingCosts(3.0, 2.0, 7.0))
    ]
    assert chosen[0] != chosen[1], "the costs should change the matching, or the test has no power"


def test_padding_is_ignored_by_both():
    """Feature values at padding have no effect; the mask has."""
    pair = make_pair()
    _, logits, _, features = pair.run_theirs()
    padding = torch.nn.functional.interpolate(pair.padding_mask[:, None].float(), size=features.shape[-2:]) > 0.5
    garbage = torch.where(padding, 100 * torch.randn_like(features), features.detach())
    torch.testing.assert_close(pair.ours([garbage], pair.padding_mask)["layers"][0], logits, rtol=1e-4, atol=1e-4)
    unmasked = pair.ours([features], torch.zeros_like(pair.padding_mask))["layers"][0]
    assert (unmasked - logits).abs().max() > 0.05
