"""Feature distillation: the authors' loss, grids of other strides, padding, normalisation, teachers, and a training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import densevit
from densevit.errors import ConfigError, WeightsError
from densevit.interfaces import Backbone, LossContext
from densevit_methods.feature_distillation import FeatureDistillation, resampled
from tests.methods.pretraining import BACKBONES, batch_of


class Patches(Backbone):
    """Convolutions whose stride is the kernel, without any effect of one cell on another."""

    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)

    def __init__(self, stride: int = 8, channels: int = 6, input_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.channels, self.strides, self.input_size = (channels, channels + 1), (stride // 2, stride), input_size
        self.convolutions = nn.ModuleList(
            nn.Conv2d(3, c, s, s) for c, s in zip(self.channels, self.strides, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        self.seen = images
        height, width = images.shape[2:]
        return [
            conv(F.pad(images, (0, -width % conv.stride[0], 0, -height % conv.stride[0]))).float()
            for conv in self.convolutions
        ]


def batch() -> Any:
    """Two images, the second one of 50 x 70 pixels and padding."""
    return batch_of((64, 96), (50, 70))


def method_of(student: Backbone, teacher: Backbone, levels: int = 1) -> tuple[Any, FeatureDistillation]:
    """A method with this teacher, which keeps its random weights."""
    model = densevit.DenseModel(student, {})
    method = FeatureDistillation(model, {"name": f"{__name__}:Patches"}, levels)
    method.teacher = densevit.DenseModel(teacher, {}).requires_grad_(False).eval()
    return model, method


pytestmark = pytest.mark.filterwarnings("ignore:method.teacher. no weights")

# ---- the loss ----


def test_loss_is_that_of_the_authors() -> None:
    """SmoothL1Loss with beta 2 of a 1x1 convolution and LayerNorm without affine, as in their code; equal grids.

    The teacher sees the images in its own normalisation.
    """
    student, teacher, levels = Patches(), Patches(channels=6), 2
    teacher.mean, teacher.std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    model, method = method_of(student, teacher, levels)
    images = batch()
    images["padding_mask"][:] = False
    expected = torch.zeros(())
    outputs = []
    for backbone in (student, teacher):
        mean, std = (torch.tensor(x)[:, None, None] for x in (backbone.mean, backbone.std))
        outputs.append(backbone((images["images"] / 255 - mean) / std))
    pairs = list(zip(*outputs, strict=True))[-levels:]
    for project, (own, target) in zip(method.projections, pairs, strict=True):
        whitened = nn.LayerNorm(target.shape[1], elementwise_affine=False)(target.flatten(2).transpose(1, 2))
        predicted = nn.functional.conv1d(own.flatten(2), project.weight[..., 0], project.bias).transpose(1, 2)
        expected = expected + nn.SmoothL1Loss(beta=2.0)(predicted, whitened) / levels
    losses = method.training_step(model, images, LossContext())
    assert losses.keys() == {"feature_distillation"}
    torch.testing.assert_close(losses["feature_distillation"], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(method.validation_losses(model, images).mean(), expected, rtol=1e-5, atol=1e-6)
    parameters = [*student.parameters()]
    gradients = [torch.autograd.grad(x, parameters) for x in (losses["feature_distillation"], expected)]
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("strides", [(8, 8), (16, 8), (12, 16)])
def test_padding_has_no_effect(strides: tuple[int, int]) -> None:
    """Neither of the batch, nor the features there: the loss of an image alone, whose features are the same."""
    model, method = method_of(Patches(strides[0]), Patches(strides[1]))
    images = batch()
    height, width = 48, 96  # multiples of all strides
    images["padding_mask"][1] = True
    images["padding_mask"][1, :48, :48] = False
    alone = {"images": images["images"][1:, :, :48, :48], "padding_mask": images["padding_mask"][1:, :48, :48]}
    together = {"images": images["images"][..., :height, :width], "padding_mask": images["padding_mask"][:, :48, :96]}
    found = method.validation_losses(model, together)
    torch.testing.assert_close(found[1:], method.validation_losses(model, alone), rtol=1e-4, atol=1e-6)


# ---- grids ----


@pytest.mark.parametrize(("old", "new"), [((8, 12), (4, 6)), ((6, 9), (12, 18)), ((9, 6), (6, 4))])
def test_resampling_is_antialiased_bilinear_interpolation(old: tuple[int, int], new: tuple[int, int]) -> None:
    """Against torch, where both grids have one extent and no padding."""
    x = torch.randn(2, 5, *old)
    found = resampled(x, torch.ones(2, *old, dtype=torch.bool), new, (old[0] / new[0], old[1] / new[1]))
    expected = F.interpolate(x, new, mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# ---- teachers ----


def test_a_model_file_and_the_backbone_in_it_are_the_same_teacher(tmp_path: Path) -> None:
    section, path = {"name": "resnet", "depth": 18}, str(tmp_path / "teacher.safetensors")
    densevit.save(densevit.create_model(section, {"detection": "one_stage"}, ["a", "b"], pretrained=False), path)
    model = densevit.DenseModel(densevit.create_backbone(**BACKBONES["swin"]), {})
    images = batch()
    found = []
    for teacher in (path, {**section, "weights": path}):
        method = densevit.create_method("feature_distillation", model, teacher=teacher)
        assert all(name.startswith("projections.") for name in method.state_dict())
        assert method.external_modules == ("teacher",)
        assert not any(p.requires_grad for p in method.teacher.parameters())
        assert not any(module.training for module in method.train().teacher.modules())
        found.append(method.targets(images))
    assert torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"teacher": "nowhere"}, WeightsError, "method.teacher: nowhere: no such file"),
        ({"teacher": {"name": "resnet", "deepth": 18}}, ConfigError, "method.teacher: .*deepth"),
        ({"teacher": {"name": "resnet"}, "levels": 3}, ConfigError, "levels is 3; the student has 2 feature maps"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FeatureDistillation(densevit.DenseModel(Patches(), {}), **options)
