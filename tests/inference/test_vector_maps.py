"""Windows and flips of heads whose predictions are vectors, which a flip changes."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.config import InferenceSection
from densevit.data.loading.batch_sampler import collate
from densevit.interfaces import Class, DenseHead, Head
from densevit.model import DenseModel, inference_by_head
from densevit.targets import VectorMap
from tests.model import small_models
from tests.model.small_models import inferred


class Pixels(small_models.Pixels):
    """The pixels, 0 ... 1."""

    size_divisor, mean, std = 4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class Normals(DenseHead):
    """Unit vectors: the differences of a pixel and the one to its right, so that mirrored images have other vectors."""

    task, required_targets = "normals", ("normals",)
    target_types: ClassVar = {"normals": VectorMap()}

    def forward(self, features, padding_mask, targets=None):
        x = features[0]
        return {"maps": x - 0.9 * F.pad(x, (0, 1))[..., 1:] + 0.1}

    def maps(self, outputs, size):
        return outputs["maps"][..., : size[0], : size[1]]

    def read_maps(self, maps):
        return {"normals": F.normalize(maps, dim=1)}


def model_of(head: type[Head]) -> DenseModel:
    classes = tuple(Class(str(n), n, (0, 0, 0)) for n in range(3))
    return DenseModel(Pixels(), {"x": head((3,), (4,), classes)}).eval()


IMAGE = torch.randint(0, 256, (3, 20, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def predicted(
    model: DenseModel, image: Tensor, original: tuple[int, int] | None = None, **section
) -> dict[str, Tensor]:
    size = tuple(image.shape[1:])
    batch = collate([{"image": image, "targets": {"size": size, "original_size": original or size}}], 4)
    with torch.no_grad():
        [found] = inferred(model, batch, inference_by_head(model, InferenceSection(**section)))["x"]
    return found


def maps_of(image: Tensor) -> Tensor:
    """The maps of the head `Normals`, in numpy's terms."""
    x = image.double().numpy() / 255
    return x - 0.9 * np.concatenate([x[:, :, 1:], np.zeros_like(x[:, :, :1])], 2) + 0.1


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=0, keepdims=True)


def test_vectors_of_windows_are_averaged():
    """Three windows of 12 columns at 0, 8 and 16; the last column of each is computed without its neighbour."""
    total, count = np.zeros((3, 20, 28)), np.zeros(28)
    for left in (0, 8, 16):
        total[:, :, left : left + 12] += maps_of(IMAGE[:, :, left : left + 12])
        count[left : left + 12] += 1
    found = predicted(model_of(Normals), IMAGE, window=(20, 12), stride=(20, 8))["normals"]
    assert found.numpy() == pytest.approx(unit(total / count), abs=1e-5)


@pytest.mark.parametrize("section", [{}, {"window": (6, 28)}])
def test_flipped_vectors_point_to_the_other_side(section):
    mirrored = maps_of(IMAGE.flip(-1))[:, :, ::-1] * np.array([-1, 1, 1])[:, None, None]
    expected = unit((maps_of(IMAGE) + mirrored) / 2)
    found = predicted(model_of(Normals), IMAGE, flip=True, **section)["normals"]
    assert found.numpy() == pytest.approx(expected, abs=1e-4)
    assert not np.allclose(found.numpy(), unit(maps_of(IMAGE)), atol=0.05)
