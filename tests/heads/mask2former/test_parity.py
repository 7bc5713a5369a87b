"""The mask2former head against transformers' Mask2FormerForUniversalSegmentation: same weights, features and targets.

transformers treats padding as a part of the image, as the authors' code does: so does ours without `mask_padding`.
Both models compute in double precision, and their losses in single: in single precision a rounding error can switch a
ReLU of the pixel decoder, which changes gradients by up to 0.4 %.
"""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.interfaces import Targets
from densevit.losses.context import LossContext
from densevit.set_prediction import mask_matching, mask_segments
from densevit.set_prediction.queries import mask_logits
from densevit.targets import RunLengthMasks
from densevit_heads.mask2former import Mask2FormerInstance
from densevit_heads.mask2former.pixel_decoder import MaskTransformer, PixelDecoderOptions
from tests.heads.transformers_pairs import (
    CLASSES,
    GivenFeatures,
    copies,
    gradients,
    randomise,
    renamed,
    same_gradients,
    same_losses,
)

LAYERS, QUERIES, HEADS, POINTS = 4, 8, 4, 96
CHANNELS, STRIDES = (8, 12, 16, 20), (4, 8, 16, 32)
SIZES = [(96, 160), (128, 90), (70, 130)]
GRID = (128, 160)
COUNTS = [3, 1, 9]  # the last image has more segments than queries
WEIGHTS = {"label": ("loss_cross_entropy", 2), "mask": ("loss_mask", 5), "dice": ("loss_dice", 5)}
LAYOUT = "transformers-mask2former-resnet-instance", "detection"


class Batch(NamedTuple):
    """masks: of each image on the grid, for transformers. scales: (B, 2), the images' share of the grid."""

    features: list[Tensor]
    padding_mask: Tensor
    masks: list[Tensor]
    targets: list[Targets]
    scales: Tensor


def make_pair() -> tuple[Any, Mask2FormerInstance]:
    """transformers' model and ours with the same weights, in double precision."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig

    config = Mask2FormerConfig(
        backbone_config=ResNetConfig(embedding_size=8, hidden_sizes=[*CHANNELS], depths=[1, 1, 1, 1],
                                     layer_type="basic", out_features=["stage1", "stage2", "stage3", "stage4"]),
        feature_size=64, mask_feature_size=64, hidden_dim=64, encoder_feedforward_dim=48, encoder_layers=2,
        decoder_layers=LAYERS + 1, num_attention_heads=HEADS, dim_feedforward=40, num_queries=QUERIES,
        num_labels=len(CLASSES), train_num_points=POINTS,
    )  # fmt: skip
    theirs = Mask2FormerForUniversalSegmentation(config).eval()
    spreads = {r"sampling_offsets\.bias": 2.0, r"queries_features\.weight": 1.0, r"queries_embedder\.weight": 1.0}
    randomise(theirs, 0.15, spreads)
    transformer, pixel_decoder = MaskTransformer(64, HEADS, LAYERS, 40), PixelDecoderOptions(2, 48, mask_padding=False)
    ours = Mask2FormerInstance(CHANNELS, STRIDES, CLASSES, QUERIES, transformer, pixel_decoder, POINTS).eval()
    ours.load_state_dict(renamed(theirs.state_dict(), *LAYOUT), strict=True)
    theirs.double().criterion.float()
    return theirs, ours.double()


def make_batch() -> Batch:
    features = [torch.randn(len(SIZES), c, GRID[0] // s, GRID[1] // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    padding = torch.ones(len(SIZES), *GRID, dtype=torch.bool)
    masks, targets = [], []
    for i, ((h, w), count) in enumerate(zip(SIZES, COUNTS, strict=True)):
        padding[i, :h, :w] = False
        blobs = F.interpolate(torch.randn(1, count, 5, 6), size=(h, w), mode="bicubic")[0] > 0.2
        masks.append(F.pad(blobs, (0, GRID[1] - w, 0, GRID[0] - h)).float())
        labels = torch.randint(len(CLASSES), (count,))
        coded = RunLengthMasks.from_dense(blobs, (h, w))
        targets.append({"masks": coded, "labels": labels, "size": (h, w), "image_id": i})
    scales = torch.tensor([[target["size"][1] / GRID[1], target["size"][0] / GRID[0]] for target in targets])
    return Batch([x.double() for x in features], padding, masks, targets, scales)


def same_points(monkeypatch: pytest.MonkeyPatch, scales: Tensor) -> None:
    """The same random points in both: in matching of an image, and as candidates of each mask.

    Ours are in 0 ... 1 of the image, transformers' of the padded batch.
    """
    tables = {count: torch.rand(len(SIZES), count, 2) for count in (POINTS, 3 * POINTS, POINTS // 4)}
    per_mask = scales.repeat_interleave(torch.tensor(COUNTS).clamp(max=QUERIES), 0)
    calls = {"theirs": 0, "ours": 0}

    def rand(rows: int, count: int, _: int, **kwargs: Any) -> Tensor:
        if count != POINTS:
            return tables[count][0] * per_mask[:, None]
        image, calls["theirs"] = calls["theirs"] % len(SIZES), calls["theirs"] + 1
        return (tables[count][image] * scales[image])[None]

    def ours(rows: int, count: int, *args: Any) -> Tensor:
        if count != POINTS:
            return tables[count][:1].expand(rows, -1, -1)
        image, calls["ours"] = calls["ours"] % len(SIZES), calls["ours"] + 1
        return tables[count][image : image + 1]

    monkeypatch.setattr(torch, "rand", rand)
    monkeypatch.setattr(mask_segments, "random_points", ours)
    monkeypatch.setattr(mask_matching, "random_points", ours)


@pytest.mark.filterwarnings("ignore:image 2 has 9 segments")
def test_outputs_losses_and_gradients_match_transformers(monkeypatch: pytest.MonkeyPatch):
    from transformers.modeling_outputs import BackboneOutput

    theirs, ours = make_pair()
    batch = make_batch()
    same_points(monkeypatch, batch.scales)
    their_features, features = copies(batch.features)
    theirs.model.pixel_level_module.encoder = GivenFeatures(their_features, lambda x, _: BackboneOutput(tuple(x)))
    output = theirs(torch.zeros(len(SIZES), 3, *GRID), output_auxiliary_logits=True)
    labels = [target["labels"] for target in batch.targets]
    auxiliary = [{name: x.float() for name, x in layer.items()} for layer in output.auxiliary_logits]
    last = output.masks_queries_logits.float(), output.class_queries_logits.float()
    terms = theirs.criterion(*last, batch.masks, labels, auxiliary)
    outputs = ours(features, batch.padding_mask)
    losses = ours.loss(outputs, batch.targets, LossContext())

    logits, embeddings = outputs["layers"]
    masks = torch.stack([mask_logits(x, outputs["pixels"]) for x in embeddings])
    their_logits, their_masks = (
        torch.stack([*(x[name] for x in output.auxiliary_logits), output[name]])
        for name in ("class_queries_logits", "masks_queries_logits")
    )
    their_masks = their_masks.float()  # as ours are
    assert logits.shape == (LAYERS + 1, len(SIZES), QUERIES, len(CLASSES) + 1)
    assert their_logits.std(dim=2).mean() > 0.1 and 0.2 < (their_masks > 0).float().mean() < 0.8
    torch.testing.assert_close(logits, their_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(masks, their_masks, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["masks"], their_masks[-1], rtol=1e-4, atol=1e-4)

    expected = {name: weight * terms[term] for name, (term, weight) in WEIGHTS.items()}
    earlier = [w * terms[f"{name}_{layer}"] for name, w in WEIGHTS.values() for layer in range(LAYERS)]
    expected["auxiliary"] = torch.stack(earlier).sum()
    same_losses(losses, expected)
    sum(expected.values()).backward(), sum(losses.values()).backward()
    same_gradients(renamed(gradients(theirs), *LAYOUT), ours, (their_features, features))
