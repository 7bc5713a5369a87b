"""The dense model: normalised pixels, losses and their weights, frozen parts."""

import copy
import math

import pytest
import torch
from torch import nn

import densevit
from densevit.model import DenseModel
from tests.model.small_models import CLASSES, Averaged, Mean, batch_of, of_heads
from tests.small_models import NAIVE, Pixels


def test_padding_is_exactly_zero_after_normalisation():
    model = of_heads(Averaged(), detection=Mean)
    batch = batch_of(model, (3, 5), (4, 2))
    images = batch["images"].clone()
    pixels = model.normalise(images, batch["padding_mask"])
    padding = batch["padding_mask"][:, None].expand_as(pixels)
    assert pixels[padding].eq(0).all()
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in ([0.5, 0.25, 0.0], [0.5, 0.25, 2.0]))
    torch.testing.assert_close(pixels[~padding], ((images / 255 - mean) / std)[~padding])
    assert torch.equal(images, batch["images"])


def test_losses_are_named_by_head_and_weighted():
    model = of_heads(Averaged(), a=Mean, b=Mean)
    model.loss_weights["b"] = 0.25
    outputs = {"a": {"logits": torch.full((2, 3), 4.0)}, "b": {"logits": torch.full((2, 3), 8.0)}}
    losses = model.losses_of(outputs, [{}, {}])
    assert [*model.with_heads(["b"]).losses_of(outputs, [{}, {}])] == ["b/mean", "b/constant"]
    assert {name: value.item() for name, value in losses.items()} == {
        "a/mean": 4.0,
        "a/constant": 2.0,
        "b/mean": 2.0,
        "b/constant": 0.5,
    }


def test_learned_weight_is_the_inverse_variance_with_log_term():
    model = DenseModel(
        Averaged(), {"a": Mean((3,), (8,), CLASSES), "b": Mean((3,), (8,), CLASSES)}, loss_weights={"b": "learned"}
    )
    nn.init.constant_(model.log_variances["b"], math.log(4))
    outputs = {name: {"logits": torch.full((2, 3), 8.0)} for name in "ab"}
    losses = model.losses_of(outputs, [{"labels": torch.zeros(0)}, {}])
    assert losses["a/mean"] == 8 and "a/log_variance" not in losses
    torch.testing.assert_close(losses["b/mean"], torch.tensor(2.0))
    torch.testing.assert_close(losses["b/log_variance"], torch.tensor(math.log(2)))
    sum(losses.values()).backward()  # of 10 exp(-s) + s / 2 with s = log 4: -10 / 4 + 1 / 2
    torch.testing.assert_close(model.log_variances["b"].grad, torch.tensor(-2.0))
    losses = model.losses_of(outputs, [{"depth": torch.zeros(2, 2)}])  # of images without labels
    model.log_variances["b"].grad = None
    losses["b/log_variance"].backward()
    assert losses["b/log_variance"] == 0 and model.log_variances["b"].grad == 0


def test_buffers_that_state_dicts_lack_stay_when_a_model_is_emptied():
    model = densevit.create_model({"name": "swin", "variant": "nano"}, NAIVE, ["road", "sky"]).eval()
    image = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    with torch.no_grad():
        expected, weights = model(image)["segmentation"]["logits"], model.state_dict()
        emptied = copy.deepcopy(model).to_empty(device="cpu")
        emptied.load_state_dict(weights)
        assert torch.equal(emptied(image)["segmentation"]["logits"], expected)
    with torch.device("meta"):
        backbone = densevit.create_backbone("swin", variant="nano")
        head = densevit.create_head("setr", backbone.channels, backbone.strides, ["road", "sky"])
        on_meta = densevit.DenseModel(backbone, {"segmentation": head})
    with pytest.raises(densevit.DensevitError, match="to_empty: range_low, .* Fix: build the model outside"):
        on_meta.to_empty(device="cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_normalisation_is_exact_whatever_the_default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        model = of_heads(Pixels(), detection=Mean)
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.mean.flatten().tolist() == pytest.approx([255 * 0.485, 255 * 0.456, 255 * 0.406], rel=1e-6)
    assert model.std.flatten().tolist() == pytest.approx([255 * 0.229, 255 * 0.224, 255 * 0.225], rel=1e-6)
