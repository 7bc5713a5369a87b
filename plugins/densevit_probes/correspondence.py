"""Correspondence of two views of an image by the nearest features, without labels."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.interfaces import Batch, Evaluator, Predictions, Targets
from densevit.layers.missing_pixels import resampled
from densevit_probes.probe import Encode, Probe

_THRESHOLDS = (5, 10, 20)  # pixels
_EPS = 1e-9  # cosine distance


class MatchRecall(Evaluator):
    """The metrics `recall5`, `recall10` and `recall20`: means over images of the share of matches within 5, 10 and 20
    pixels of the network's input.
    """

    reads = ("match_errors",)
    main = "recall10"

    def record(self, prediction: Predictions, truth: Targets) -> list[float] | None:
        """prediction: under `match_errors` the errors of the matches (M,), in pixels. None without a match."""
        errors: Tensor = prediction["match_errors"]
        return [float((errors < pixels).float().mean()) for pixels in _THRESHOLDS] if len(errors) else None

    def compute(self, records: Sequence[list[float]]) -> dict[str, float]:
        """The metrics, see the class; nan without images."""
        columns = zip(*records, strict=True) if records else [[float("nan")]] * len(_THRESHOLDS)
        return {f"recall{pixels}": float(np.mean(list(c))) for pixels, c in zip(_THRESHOLDS, columns, strict=True)}


class ViewCorrespondence(Probe):
    """Matches of an image and a warped view of it, without labels; metrics as in `MatchRecall`.

    The matching is that of Probe3D (El Banani et al. 2024, section 4): features of points, sampled bicubically from the
    last map; for each point of the image the point of the other view with the smallest cosine distance; the matches
    with the largest 1 - d1 / d2, of the nearest and the second nearest. The views here differ by a random homography,
    which moves the corners of the image by up to `jitter` of its sides (DeTone et al. 2016, with HomographyNet).

    matches: number of matches of an image. spacing: distance of the points, in pixels. jitter: the largest move of a
    corner, as a share of a side. seed: the seed of the homographies.
    """

    evaluator = MatchRecall

    def __init__(
        self, classes: Sequence[Any] = (), matches: int = 1000, spacing: int = 8, jitter: float = 0.2, seed: int = 0
    ) -> None:
        super().__init__(())
        if matches < 1 or spacing < 1 or not 0 < jitter < 0.25:
            raise ConfigError(
                f"matches is {matches}, spacing {spacing} and jitter {jitter:g}; at least 1, at least 1, and between 0 "
                "and 0.25 are expected."
            )
        self.matches, self.spacing, self.jitter, self.seed = matches, spacing, jitter, seed

    def features(self, encode: Encode, batch: Batch, stride: int) -> list[Tensor]:
        """The errors of the matches of each image, in pixels."""
        sizes = [(int(h), int(w)) for h, w in (target["size"] for target in batch["targets"])]
        warps = [self._homography(size, str(t["image_id"])) for size, t in zip(sizes, batch["targets"], strict=True)]
        views, outside = self._warped(batch, warps)
        other: Batch = {**batch, "images": views, "padding_mask": outside}
        maps, other_maps = encode(batch)[-1], encode(other)[-1]
        canvas, errors = (stride * maps.shape[-2], stride * maps.shape[-1]), []
        for map_, other_map, mask, warp, size in zip(maps, other_maps, outside, warps, sizes, strict=True):
            points = self._points(size).to(map_.device)
            candidates = points[~mask[points[:, 1].long(), points[:, 0].long()]]
            truth = _moved(points, warp)
            inside = ((truth >= 0) & (truth < torch.tensor(size[::-1], device=truth.device))).all(1)
            points, truth = points[inside], truth[inside]
            index, weights = nearest(sampled(map_, points, canvas), sampled(other_map, candidates, canvas))
            best = weights.topk(min(self.matches, len(weights))).indices
            errors.append((candidates[index[best]] - truth[best]).norm(dim=1))
        return errors

    def predict(self, image: Tensor, size: tuple[int, int]) -> Predictions:
        return {"match_errors": image}

    def _homography(self, size: tuple[int, int], image_id: str) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *image_id.encode()])
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * [size[1], size[0]]
        moved = corners + rng.uniform(-self.jitter, self.jitter, (4, 2)) * [size[1], size[0]]
        matrix: np.ndarray = cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))
        return matrix

    def _points(self, size: tuple[int, int]) -> Tensor:
        """The centres of squares of `spacing` pixels, (N, 2) as x, y."""
        y, x = (torch.arange(self.spacing / 2, side, self.spacing) for side in size)
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)

    @staticmethod
    def _warped(batch: Batch, warps: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """The warped images of a batch, and the mask of their pixels that show no pixel of the image."""
        images, padding = batch["images"], batch["padding_mask"]
        height, width = images.shape[-2:]
        y, x = (torch.arange(side, device=images.device) + 0.5 for side in (height, width))
        pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
        sources = torch.stack([_moved(pixels, np.linalg.inv(warp)) for warp in warps]).unflatten(1, (height, width))
        grid = 2 * sources / torch.tensor([width, height], device=images.device) - 1
        views = resampled(images, lambda x: F.grid_sample(x.float(), grid, align_corners=False, padding_mode="border"))
        shown = F.grid_sample((~padding)[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0]
        if not images.is_floating_point():
            views = views.round()
        return views.to(images.dtype), (shown == 0) | padding


def nearest(features: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """The index of the nearest of `candidates` by cosine distance, and 1 - d1 / d2; (N,) each. (N, C), (M, C)."""
    similarity = F.normalize(features, dim=1) @ F.normalize(candidates, dim=1).T
    top, index = similarity.topk(min(2, len(candidates)), dim=1)
    distance = (1 - top).clamp(min=_EPS)
    return index[:, 0], 1 - distance[:, 0] / distance[:, -1]


def sampled(features: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """Features at points, (N, C). features: (C, h, w) of an input of `size` (H, W). points: (N, 2), x and y."""
    grid = 2 * points / torch.tensor(size[::-1], device=points.device) - 1
    values = F.grid_sample(
        features[None], grid[None, None].to(features.dtype), mode="bicubic", align_corners=False, padding_mode="border"
    )
    return values[0, :, 0].T


def _moved(points: Tensor, matrix: np.ndarray) -> Tensor:
    """Points (N, 2) moved by a homography."""
    m = torch.from_numpy(matrix).to(points.device, points.dtype)
    x = points @ m[:, :2].T + m[:, 2]
    return x[:, :2] / x[:, 2:]
