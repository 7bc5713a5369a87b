"""NaN in outputs: every head, by every way to predict; the first layer, the images and the weights with NaN."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import densevit
from densevit.channels import Channels
from densevit.errors import WeightsError
from densevit.model import DenseModel
from densevit.model.nan_check import largest, nan_checked
from tests.inference.own_parts import Halves, Labels, Net
from tests.model.small_models import Boxes, Depth, Segmenter, Stem, of_heads
from tests.model.small_models import batch_of as images_of
from tests.small_models import FourMaps
from tests.strict_device import DEVICE, Accelerator, moved
from tests.written_files import save_image

NAN = float("nan")

# ---- the message ----


class Gated(Stem):
    """NaN after its layer for images whose mean is above `limit`."""

    limit = 0.5

    def forward(self, images: Tensor) -> list[Tensor]:
        [x] = super().forward(images)
        return [x + 0 * (self.limit - images.mean((1, 2, 3), keepdim=True)).sqrt()]


def model(backbone: Any = None) -> DenseModel:
    """Boxes and two kinds of maps."""
    torch.manual_seed(0)
    return of_heads(backbone or Stem(), boxes=Boxes, seg=Segmenter, depth=Depth).eval()


DARK, BRIGHT = (np.full((16, 24, 3), value, np.uint8) for value in (0, 255))


def test_the_message_has_the_heads_the_first_layer_and_the_weights_with_nan() -> None:
    nan = model()
    with torch.no_grad():
        nan.heads["depth"].out.bias[0] = NAN
        nan.heads["depth"].unused = torch.nn.BatchNorm1d(1)
        nan.heads["depth"].unused.running_mean[0] = NAN
    with pytest.raises(WeightsError) as error:
        nan.predict(DARK)
    assert str(error.value) == (
        "heads.depth: outputs are NaN for image 0, first in the output of heads.depth.out (Conv2d). Weights are NaN: "
        "heads.depth.out.bias, heads.depth.unused.running_mean. Fix: load other weights, or train again."
    )
    assert not any(part._forward_hooks for part in nan.modules())
    with torch.no_grad():
        nan.backbone.layer.weight[0, 0, 0, 0] = NAN
    with pytest.raises(WeightsError, match=r"heads\.boxes, heads\.seg, heads\.depth: .* backbone\.layer \(Conv2d\)\."):
        nan.predict(DARK)
    nan.with_heads(["boxes"]).heads["boxes"].eval()


def test_images_with_nan_are_named_by_their_paths(cwd: Path) -> None:
    """The weights are right: the layer overflows for these images only."""
    gated = model(Gated())
    for name, pixels in (("a", DARK), ("b", BRIGHT), ("c", DARK), ("d", BRIGHT)):
        save_image(cwd / f"photos/{name}.png", pixels)
    assert len([*gated.predict(["photos/a.png", "photos/c.png"])]) == 2
    with pytest.raises(WeightsError, match=r"for image 'photos/b\.png', 'photos/d\.png', first in the output of backb"):
        list(gated.predict("photos"))
    with pytest.raises(WeightsError, match=r"for image 1, first .* backbone \(Gated\)\. No weight is NaN\. Fix: comp"):
        list(gated.iterate([DARK, BRIGHT]))


def test_infinite_values_and_missing_pixels_are_no_error() -> None:
    """-inf marks what is masked; NaN in float images is a missing pixel."""
    assert largest({"a": torch.tensor([-torch.inf, 1.0]), "b": [torch.tensor(3)], "c": torch.zeros(0)}) == 1
    assert largest(({"logits": torch.tensor([2.0, NAN], dtype=torch.float16)}, torch.ones(2))).isnan()
    assert largest({"a": torch.tensor([torch.inf]), "b": torch.tensor([-torch.inf])}) == torch.inf
    assert largest({"labels": torch.tensor([1])}) is None
    channels = Channels(("a", "b", "c"), "float32", ((0.0, 1.0),) * 3, nodata=-1.0)
    section = {"name": f"{FourMaps.__module__}:FourMaps", "channels": channels, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    floats = densevit.create_model(section, "linear", classes=["a", "b"]).eval()
    image = np.full((64, 64, 3), 0.5, np.float32)
    image[:40] = NAN
    assert floats.predict(image).semantic.shape == (64, 64)


@pytest.mark.parametrize("inference", [{"window": 16}, {"flip": True}, {"scales": [0.5, 1.0]}], ids=str)
def test_windows_flips_and_scales_are_checked(inference: Any) -> None:
    gated = of_heads(Gated(), seg=Segmenter, depth=Depth).eval()
    image = np.concatenate([DARK, BRIGHT], 1)
    gated.limit = 0.9
    gated.predict(image[:, :24], inference=inference)
    with pytest.raises(WeightsError, match=r"heads\.seg, heads\.depth: outputs are NaN for image 0, first .*Gated"):
        gated.predict(np.concatenate([DARK, BRIGHT], 1)[:, 24:], inference=inference)
    boxes = model(Gated()).with_heads(["boxes"])
    assert boxes.heads.keys() == {"boxes"}


def test_a_compiled_model_names_the_layer() -> None:
    compiled = densevit.create_model({"name": "vit", "variant": "nano"}, "linear", classes=["a"]).eval()
    compiled.compile(backend="eager")
    image = compiled.blank_images(1, (32, 32))[0]
    compiled.predict(image)
    with torch.no_grad():
        compiled.backbone.blocks[2].attention.output.bias.fill_(NAN)
    with pytest.raises(WeightsError, match=r"first in the output of backbone\.blocks\.2\.attention\.output \(Linear\)"):
        compiled.predict(image)


# ---- other ways to predict ----


class Fails(Labels):
    """NaN in evaluation only."""

    def forward(self, features: Any, padding_mask: Any, targets: Any = None) -> Any:
        outputs = super().forward(features, padding_mask, targets)
        return outputs if self.training else tree_map_only(Tensor, lambda x: x + NAN, outputs)


@pytest.mark.integration
def test_a_validation_in_training_ends_with_the_error(cwd: Path) -> None:
    options: Any = {"max_steps": 2, "batch_size": 2, "num_workers": 0, "accelerator": "cpu"}
    failing = densevit.create_model(Net(width=4), heads={"seg": Fails}, classes=["left", "right"])
    with pytest.raises(
        WeightsError, match=r"heads\.seg: outputs are NaN for image 0, .* output of heads\.seg \(Fails\)"
    ):
        densevit.fit(failing, train=Halves(4), val=Halves(2), **options)


@pytest.mark.integration
def test_commands_end_with_the_error(cwd: Path, run: Any) -> None:
    saved = densevit.create_model("resnet", {"seg": "linear"}, classes=["left", "right"])
    torch.nn.init.constant_(saved.backbone.layer1[0].conv1.weight, NAN)
    densevit.save(saved, "nan.safetensors")
    save_image(cwd / "photos/a.png", DARK)
    message = (
        "first in the output of backbone.layer1.0.conv1 (Conv2d). Weights are NaN: backbone.layer1.0.conv1.weight."
    )
    assert message in (text := run("predict", "nan.safetensors", "photos", code=2)) and "photos/a.png" in text
    with pytest.raises(WeightsError, match=re.escape(message)):
        densevit.evaluate(densevit.load("nan.safetensors"), Halves(2))


# ---- no wait on an accelerator ----


def on_device(batch: Any) -> Any:
    return {**batch, **{key: batch[key].to(DEVICE) for key in ("images", "padding_mask")}}


@pytest.mark.parametrize("inference", [{}, {"window": 16}], ids=str)
def test_on_an_accelerator_the_error_comes_after_predictions_were_copied(inference: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    gated = of_heads(Gated(), seg=Segmenter, depth=Depth).eval().with_inference(inference)
    copied = []
    with torch.no_grad(), Accelerator():
        moved(gated)
        assert gated.device == DEVICE
        bright = images_of(gated, (16, 24), (16, 24))
        bright["images"][1] = 255
        batch = on_device(bright)
        gated.infer(batch)  # nothing reads the values
        with (
            pytest.raises(
                WeightsError, match=r"heads\.seg, heads\.depth: .*, first in the output of backbone \(Gated\)"
            ),
            nan_checked(gated),
        ):
            copied += tree_map_only(Tensor, lambda x: x.to("cpu"), gated.infer(batch)["depth"])
            raise ValueError("caused by NaN")
    assert len(copied) == 2 and copied[1]["depth"].isnan().all() and not copied[0]["depth"].isnan().any()
