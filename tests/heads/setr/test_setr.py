"""The SETR head: sizes of maps, losses on padded batches, predictions in original pixels, and options."""

import pytest
import torch
from torch.nn import functional as F

from densevit.interfaces import Class
from densevit.losses.context import LossContext
from densevit.losses.segmentation import cross_entropy, dice, hard_pixels, label_maps
from densevit_heads.setr import Setr
from tests.heads.padded_batch import CLASSES, make_features, no_padding

PLAIN = ((12, 12, 12), (16, 16, 16))
SMALL = {"width": 32, "branch_width": 16}


@pytest.mark.parametrize(
    ("smoothing", "hard"), [(0.0, {}), (0.3, {}), (0.0, {"ohem_threshold": 0.25, "ohem_min_kept": 50})], ids=str
)
def test_losses_of_a_padded_batch_are_those_of_the_maps_at_its_size(smoothing, hard):
    """Of images of three sizes, of which one has no labels, with all options of the loss."""
    options = {"class_weights": (1.0, 2.0, 0.5, 3.0), "dice": 0.5, "norm": "group", "label_smoothing": smoothing}
    head = Setr(*PLAIN, CLASSES, "naive", **SMALL, **options, **hard)
    sizes = [(48, 64), (40, 50), (33, 64)]
    targets = [{"size": size, "semantic": torch.randint(4, size, dtype=torch.uint8)} for size in sizes]
    del targets[2]["semantic"]
    outputs = head(make_features(PLAIN, (48, 64), B=3), no_padding((48, 64), 3), targets)
    labels, weights, context = label_maps(targets, torch.device("cpu")), torch.tensor([1.0, 2, 0.5, 3]), LossContext()

    def expected(logits):
        x = F.interpolate(logits, size=(48, 64), mode="bilinear", align_corners=False)
        kept = hard_pixels(x, labels, *hard.values()) if hard else labels
        return cross_entropy(x, kept, context, weights, smoothing), 0.5 * dice(x, labels, context)

    found = head.loss(outputs, targets, context)
    assert list(found) == ["cross_entropy", "dice", "auxiliary"]
    torch.testing.assert_close((found["cross_entropy"], found["dice"]), expected(outputs["logits"]))
    torch.testing.assert_close(found["auxiliary"], 0.4 * sum(sum(expected(x)) for x in outputs["auxiliary"]))


def test_predictions_are_the_argmax_at_the_original_size():
    head = Setr(*PLAIN, [Class(str(i), i, (0, 0, 0)) for i in range(7)], "naive", **SMALL).eval()
    outputs = {"logits": torch.randn(2, 7, 12, 16)}
    targets = [{"size": (48, 64), "original_size": (48, 64)}, {"size": (37, 50), "original_size": (101, 77)}]
    found = head.predict(outputs, targets)
    for prediction, logits, target in zip(found, outputs["logits"], targets, strict=True):
        h, w = target["size"]
        x = F.interpolate(logits[None], size=(48, 64), mode="bilinear", align_corners=False)[..., :h, :w]
        x = F.interpolate(x, size=target["original_size"], mode="bilinear", align_corners=False)
        assert prediction["semantic"].dtype == torch.uint8
        assert torch.equal(prediction["semantic"].long(), x[0].argmax(0))
