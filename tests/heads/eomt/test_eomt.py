"""The EoMT heads beyond the contract of all heads: annealing, backbones, other heads beside them, and resumed runs."""

import pytest
import torch

import densevit
from densevit.errors import ConfigError
from densevit.interfaces import Class
from densevit_heads.parts.mask_annealing import mask_probabilities
from tests.heads.cases import batch_of

SMALL = {"num_queries": 6, "num_blocks": 2, "num_points": 64}
CLASSES = [Class(name, i, (i, i, i), thing=name.islower()) for i, name in enumerate(["cat", "dog", "SKY", "SEA"])]
VIT = {"variant": "nano", "image_size": 96, "registers": 2, "layer_scale": 0.5, "drop_path": 0.0}
SIZE = (80, 112)


def model_of(heads, backbone=VIT):
    torch.manual_seed(0)
    sections = {name: {**section, **(SMALL if section["name"].startswith("eomt") else {})}
                for name, section in heads.items()}  # fmt: skip
    return densevit.create_model({"name": "vit", **backbone}, heads=sections, classes={name: CLASSES for name in heads})


# ---- annealing ----


def test_annealing_follows_the_authors_configs():
    """COCO, 12 epochs of 7393 steps: attn_mask_annealing_{start,end}_steps."""
    total = 12 * 7393
    starts, ends = (14782, 29564, 44346, 59128), (29564, 44346, 59128, 73910)
    for step in (0, 14000, 20000, 29564, 36000, 50000, 60000, 73000, 80000):
        expected = [(1 - min(1, max(0, (step - a) / (b - a)))) ** 0.9 for a, b in zip(starts, ends, strict=True)]
        assert mask_probabilities(step / total, 4) == pytest.approx(expected, abs=2e-3)
    assert mask_probabilities(0.0, 1) == [1.0] and mask_probabilities(1.0, 5) == [0.0] * 5


def test_masks_act_in_training_until_they_are_annealed():
    model = model_of({"panoptic": {"name": "eomt"}})
    batch, head = batch_of(("panoptic",), [SIZE] * 2), model.heads["panoptic"]

    def logits(mode, progress):
        head.set_progress(progress)
        torch.manual_seed(0)
        return model.train(mode)(batch)["panoptic"]["logits"].detach()

    plain = logits(False, 0.0)
    assert not torch.allclose(logits(True, 0.0), plain, atol=1e-3)
    half = logits(True, 0.4)
    assert not torch.allclose(half, plain, atol=1e-3) and not torch.allclose(half, logits(True, 0.0), atol=1e-3)
    torch.testing.assert_close(logits(True, 1.0), plain)


# ---- backbones ----


def test_other_heads_get_the_features_of_the_whole_backbone():
    both = model_of({"segmentation": {"name": "setr"}, "panoptic": {"name": "eomt"}}).eval()
    batch = batch_of((), [SIZE] * 2)
    outputs = both(batch)
    alone = both(batch, ["segmentation"])
    assert torch.equal(outputs["segmentation"]["logits"], alone["segmentation"]["logits"])
    assert torch.equal(outputs["panoptic"]["logits"], both(batch, ["panoptic"])["panoptic"]["logits"])


@pytest.mark.parametrize(
    ("backbone", "neck", "facts"),
    [
        ({"name": "swin"}, None, "Swin is no densevit.interfaces.TokenBackbone"),
        ({"name": "vit", "windows": {"size": 4, "global_blocks": (5,)}}, None, "lets heads run none"),
        ({"name": "vit"}, {"name": "simple_pyramid"}, "remove heads.panoptic.neck"),
    ],
)
def test_backbones_that_cannot_and_necks_are_errors(backbone, neck, facts):
    head = {"name": "eomt", **({} if neck is None else {"neck": neck})}
    with pytest.raises(ConfigError, match=facts) as raised:
        densevit.create_model({"variant": "nano", **backbone}, heads={"panoptic": head}, classes={"panoptic": CLASSES})
    assert "\n" not in str(raised.value)
