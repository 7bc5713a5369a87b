"""Surface normals by a linear map of the features."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.interfaces import Batch, Evaluator, Predictions, Targets
from densevit_probes.feature_classifiers import mean_and_std
from densevit_probes.probe import Encode, Probe

_WITHIN = (11.25, 22.5, 30.0)  # degrees
_BINS = 1800  # of angles between 0 and 180 degrees


class NormalMap(NamedTuple):
    """An image: its last map (C, h, w), the mean normals (3, h, w) of its cells, 0 = unknown, the stride, and its
    (height, width) on the network's input."""

    features: Tensor
    normals: Tensor
    stride: int
    size: tuple[int, int]


class NormalAngles(Evaluator):
    """The angle between predicted and true surface normals, over all pixels with a normal (Fouhey et al. 2013).

    Metrics: `mean` and `median` in degrees, and the shares `within_11`, `within_22` and `within_30` of pixels within
    11.25, 22.5 and 30 degrees.
    """

    reads = ("normals",)
    main = "mean"
    lower_is_better = ("mean", "median")

    def record(self, prediction: Predictions, truth: Targets) -> Tensor | None:
        """prediction: normals (3, H, W) of length 1. truth: normals (3, H, W), 0 = unknown."""
        if "normals" not in truth:
            return None
        normals = truth["normals"].to(prediction["normals"].device)
        cosine = (prediction["normals"] * F.normalize(normals, dim=0)).sum(0)
        angles = cosine.clamp(-1, 1).acos().rad2deg()[(normals != 0).any(0)]
        within = [(angles < limit).sum() for limit in _WITHIN]
        histogram = torch.histc(angles.float(), _BINS, 0, 180)
        sums = torch.stack([angles.sum(), *within, torch.tensor(angles.numel(), device=angles.device)]).double()
        return torch.cat([sums, histogram.double()]).cpu()

    def compute(self, records: Sequence[Tensor]) -> dict[str, float]:
        """The metrics, see the class; nan without images."""
        total = sum(records, torch.zeros(len(_WITHIN) + 2 + _BINS, dtype=torch.float64))
        angles, *within, pixels = total[: len(_WITHIN) + 2].tolist()
        if not pixels:
            return dict.fromkeys(("mean", "median", "within_11", "within_22", "within_30"), float("nan"))
        middle = int(torch.searchsorted(total[len(_WITHIN) + 2 :].cumsum(0), pixels / 2))
        metrics = {"mean": angles / pixels, "median": (middle + 0.5) * 180 / _BINS}
        return metrics | {f"within_{int(limit)}": n / pixels for limit, n in zip(_WITHIN, within, strict=True)}


class SurfaceNormals(Probe):
    """Surface normals by a linear map of the last feature map; metrics as in `NormalAngles`.

    The map is the least-squares fit, with a ridge, of the standardised features of patches to the mean normals of their
    pixels. Predictions are upsampled bilinearly to the original image and normalised.

    ridge: strength of the ridge, relative to the number of patches.
    """

    required_targets = ("normals",)
    evaluator = NormalAngles

    def __init__(self, classes: Sequence[Any] = (), ridge: float = 1e-3) -> None:
        super().__init__(())
        if not ridge > 0:
            raise ConfigError(f"ridge is {ridge:g}; above 0 is expected.")
        self.ridge = ridge

    def features(self, encode: Encode, batch: Batch, stride: int) -> list[NormalMap]:
        maps = encode(batch)[-1]
        images = []
        for map_, target in zip(maps, batch["targets"], strict=True):
            pixels = maps.new_zeros(3, map_.shape[-2] * stride, map_.shape[-1] * stride)
            if "normals" in target:
                height, width = target["normals"].shape[-2:]
                pixels[:, :height, :width] = target["normals"]
            size = (int(target["size"][0]), int(target["size"][1]))
            images.append(NormalMap(map_, F.normalize(F.avg_pool2d(pixels, stride), dim=0), stride, size))
        return images

    def fit(self, images: Sequence[NormalMap]) -> None:
        """Fits the linear map to the patches that have a normal."""
        features = torch.cat([image.features.flatten(1).T for image in images])
        normals = torch.cat([image.normals.flatten(1).T for image in images])
        is_known = (normals != 0).any(1)
        if not is_known.any():
            raise ConfigError("no training image has normals. Fix: label some images, or remove the probe.")
        self._mean, self._std = mean_and_std(features[is_known])
        x = F.pad((features[is_known] - self._mean) / self._std, (0, 1), value=1.0).double()  # with a bias
        gram = x.T @ x + self.ridge * len(x) * torch.eye(x.shape[1], device=x.device, dtype=x.dtype)
        self._weight = torch.linalg.solve(gram, x.T @ normals[is_known].double()).to(features.dtype)  # (C + 1, 3)

    def predict(self, image: NormalMap, size: tuple[int, int]) -> Predictions:
        """`normals`, of length 1, (3, *size)."""
        x = F.pad((image.features.flatten(1).T - self._mean) / self._std, (0, 1), value=1.0) @ self._weight
        grid = image.features.shape[-2:]
        cells = x.T.unflatten(1, grid)[None]
        pixels = F.interpolate(cells, size=[image.stride * n for n in grid], mode="bilinear")
        height, width = image.size
        resized = F.interpolate(pixels[..., :height, :width], size=size, mode="bilinear")
        return {"normals": F.normalize(resized[0], dim=0)}
