"""The RF-DETR head against transformers' RfDetrForObjectDetection, RfDetrForInstanceSegmentation and
LwDetrForObjectDetection.

They have the same weights, features and targets; RF-DETR has one level, LW-DETR three. Three deviations of transformers
from the authors' code (rfdetr 1.11.2) are undone for the comparison: the features of the masks of proposals are not
projected, the number of points in the matching does not depend on the masks, and points near the border are sampled
with zeros as padding.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import CheckpointLayout, Losses
from densevit.losses.context import LossContext
from densevit.set_prediction.queries import mask_logits
from densevit.targets import RunLengthMasks
from densevit_checkpoints.key_mapping import translate
from densevit_heads.rf_detr import RfDetr, RfDetrInstance
from densevit_heads.rf_detr.checkpoints import LINES, TRANSFORMERS_LINES
from densevit_heads.rf_detr.head import GroupTransformer
from tests.heads.transformers_pairs import (
    CLASSES,
    GivenFeatures,
    copies,
    masks_of,
    randomise,
    same_gradients,
    same_losses,
    scene,
)

LAYERS, QUERIES, QUERY_GROUPS, WIDTH = 3, 7, 3, 32
LEAST = 0.1  # the scale of tensors with smaller gradients, such as the bias of keys
SIZES, COUNTS = [(96, 160), (96, 112), (64, 160), (96, 160)], [3, 0, 6, 1]
SMALL: dict[str, Any] = {
    "num_labels": len(CLASSES), "num_queries": QUERIES, "group_detr": QUERY_GROUPS, "d_model": WIDTH, "dropout": 0.0,
    "decoder_layers": LAYERS, "decoder_ffn_dim": 48, "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 4, "decoder_n_points": 3, "attn_implementation": "eager",
}  # fmt: skip
OPTIONS: dict[str, Any] = {
    "num_queries": QUERIES, "transformer": GroupTransformer(WIDTH, 2, 0, LAYERS, 48), "cross_attention_heads": 4,
    "num_points": 3, "num_groups": QUERY_GROUPS,
}  # fmt: skip


def in_pairs(features: list[Tensor], pixel_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(features, masks_of(features, pixel_mask), strict=True))


def first_pair(features: list[Tensor], pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
    return in_pairs(features, pixel_mask)[0]


def ours_of(values: dict[str, Tensor], theirs: nn.Module) -> dict[str, Tensor]:
    """The tensors of transformers' head by the names of ours, as in its files."""
    from transformers.core_model_loading import revert_weight_conversion

    lw = "LwDetr" in type(theirs).__name__
    state = values if lw else revert_weight_conversion(theirs, values)
    layout = CheckpointLayout("test", (), TRANSFORMERS_LINES if lw else LINES, lambda state: {})
    done = translate(state, layout)
    assert (done.unknown, done.errors) == ([], [])
    return {key.removeprefix("heads.detection."): x for key, x in done.tensors.items()}


def make_pair(kind: str, strides: tuple[int, ...]) -> tuple[Any, RfDetr]:
    """transformers' model, and ours with the same weights."""
    import transformers
    from transformers.models.lw_detr import modeling_lw_detr
    from transformers.models.rf_detr import modeling_rf_detr

    lw = kind.startswith("Lw")
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((modeling_lw_detr, "LwDetrConvEncoder"), (modeling_rf_detr, "RfDetrConvEncoder")):
            patch.setattr(module, name, lambda _: GivenFeatures([], in_pairs))
        config = (transformers.LwDetrConfig if lw else transformers.RfDetrConfig)(
            **SMALL, **({"projector_scale_factors": [2.0, 1.0, 0.5]} if lw else {"intermediate_size": 4 * WIDTH})
        )
        theirs = getattr(transformers, kind)(config).train()
    randomise(
        theirs,
        0.2,
        {"class_embed.*bias": 0.5, "sampling_offsets.bias": 2.0, r"query_feat\.": 1.0, "^(blocks|spatial|query)": 0.1},
    )
    ours = (RfDetrInstance if "Segmentation" in kind else RfDetr)((WIDTH,) * len(strides), strides, CLASSES, **OPTIONS)
    ours.load_state_dict(ours_of(theirs.state_dict(), theirs))
    return theirs, ours


def features_of(strides: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    return copies([torch.randn(len(SIZES), WIDTH, 96 // s, 160 // s) for s in strides])


@pytest.mark.parametrize(
    ("kind", "strides"), [("RfDetrForObjectDetection", (16,)), ("LwDetrForObjectDetection", (8, 16, 32))]
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_outputs_losses_and_gradients(kind: str, strides: tuple[int, ...], training: bool) -> None:
    theirs, ours = make_pair(kind, strides)
    theirs.train(training), ours.train(training)
    theirs.config.group_detr = QUERY_GROUPS if training else 1  # that of the losses
    padding_mask, labels, targets = scene(SIZES, COUNTS, len(CLASSES), degenerate=True)
    features, own_features = features_of(strides)
    theirs.model.backbone = GivenFeatures(features, first_pair if len(strides) == 1 else in_pairs)
    output = theirs(torch.zeros(len(SIZES), 3, 96, 160), pixel_mask=(~padding_mask).long(), labels=labels)
    outputs = ours(own_features, padding_mask, targets)
    assert output.logits.shape[1] == theirs.config.group_detr * QUERIES
    logits, boxes = (x.flatten(2, 3) for x in outputs["layers"])
    for i, (name, x) in enumerate(zip(("logits", "pred_boxes"), (logits, boxes), strict=True)):
        torch.testing.assert_close(x[-1], output[name], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(outputs[("logits", "boxes")[i]], output[name][:, :QUERIES], atol=1e-4, rtol=1e-4)
        for own, other in zip(x[1:-1], output.auxiliary_outputs, strict=True):
            torch.testing.assert_close(own, other[name], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[0], output.enc_outputs_class, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(boxes[0], output.enc_outputs_coord_logits, atol=1e-4, rtol=1e-4)

    losses = ours.loss(outputs, targets, LossContext())
    same_terms(losses, output.loss_dict, {"label": ("loss_ce", 1), "l1": ("loss_bbox", 5), "giou": ("loss_giou", 2)})
    torch.stack(list(losses.values())).sum().backward(), output.loss.backward()
    same_parameter_gradients(theirs, ours, features, own_features)


def same_terms(losses: Losses, theirs: dict[str, Tensor], terms: dict[str, tuple[str, int]]) -> None:
    """terms: their name and weight of each term."""

    def total(*suffixes: str) -> Tensor:
        found = [weight * theirs[term + suffix] for term, weight in terms.values() for suffix in suffixes]
        return torch.stack(found).sum()

    expected = {name: weight * theirs[term] for name, (term, weight) in terms.items()}
    expected |= {"auxiliary": total(*(f"_{i}" for i in range(LAYERS - 1))), "proposals": total("_enc")}
    same_losses(losses, expected, near=1e-4)


def same_parameter_gradients(
    theirs: nn.Module, ours: nn.Module, features: list[Tensor], own_features: list[Tensor]
) -> None:
    given = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in theirs.named_parameters()}
    wanted = ours_of(given, theirs)
    for parameter in ours.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    assert len(wanted) > 80
    same_gradients(wanted, ours, (features, own_features), rounding="(?!)", least=LEAST)


def test_masks_and_their_losses_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without padding, which takes part in their masks. Points are the same ones for all masks."""
    from transformers.loss import loss_rf_detr

    theirs, ours = make_pair("RfDetrForInstanceSegmentation", (16,))
    size = (96, 160)
    padding_mask, labels, targets = scene([size] * len(COUNTS), COUNTS, len(CLASSES))
    for label, target in zip(labels, targets, strict=True):
        masks = torch.randn(len(label["boxes"]), 12, 20).repeat_interleave(8, 1).repeat_interleave(8, 2) > 0
        label["masks"], target["masks"] = masks.float(), RunLengthMasks.from_dense(masks.numpy(), size)
    features, own_features = features_of((16,))
    table, of_matching = torch.rand(5000, 2), size[0] * size[1] // 16 // 16

    def rand(count: int, number: int, *_: int, **__: Any) -> Tensor:
        return table[: of_matching if count == 1 else number].expand(count, -1, -1)

    theirs_head, sample_point = theirs.segmentation_head, loss_rf_detr.sample_point

    def sampled(*arguments: Tensor, **options: Any) -> Tensor:
        return sample_point(*arguments, **options, padding_mode="border")

    def segmentation_head(x: Tensor, queries: Any, size: Any, skip_blocks: bool = False) -> Any:
        if not skip_blocks:
            return theirs_head(x, queries, size)
        x = torch.nn.functional.interpolate(x, (size[0] // 4, size[1] // 4), mode="bilinear", align_corners=False)
        return theirs.get_mask_logits(queries, theirs.spatial_features_proj(x))

    monkeypatch.setattr(torch, "rand", rand)
    monkeypatch.setattr(loss_rf_detr, "sample_point", sampled)
    theirs.segmentation_head = segmentation_head
    theirs.model.model.backbone = GivenFeatures(features, first_pair)
    output = theirs(torch.zeros(len(COUNTS), 3, *size), labels=labels)
    outputs = ours(own_features, padding_mask, targets)
    embeddings, pixels = outputs["mask_layers"]
    torch.testing.assert_close(mask_logits(embeddings[-1], pixels[-1]), output.pred_masks, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        mask_logits(embeddings[0], pixels[0]), output.enc_outputs_mask_logits, atol=1e-4, rtol=1e-4
    )
    losses = ours.loss(outputs, targets, LossContext())
    terms = {"label": ("loss_ce", 1), "l1": ("loss_bbox", 5), "giou": ("loss_giou", 2)}
    same_terms(losses, output.loss_dict, {**terms, "mask": ("loss_mask_ce", 5), "dice": ("loss_mask_dice", 5)})
    torch.stack(list(losses.values())).sum().backward(), output.loss.backward()
    same_parameter_gradients(theirs, ours, features, own_features)
