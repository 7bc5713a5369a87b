"""The base class of heads for depth: the canonical camera, and predictions from maps."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.interfaces import Class, Dataset, DenseHead, Outputs, Predictions, Targets
from densevit.losses.depth import canonical_depth, depth_maps
from densevit_heads.parts.depth_limits import check_max_depth

Camera = Literal["canonical"]


class DepthHead(DenseHead):
    """A dense head whose maps are depth, the output `depth_type`. largest_depth: the largest prediction, in metres.

    camera: "canonical": learns metres as a camera with the focal length `canonical_focal`, in pixels of the image as
        the network gets it, would see them: depth times canonical_focal / focal. Predictions are converted back by the
        focal length of their image, so that a model works for other cameras. Limits such as max_depth are then in these
        canonical metres. None: metres, for cameras as in the training data.
    canonical_focal: Depth Anything 3 uses 300, Metric3D (Yin et al. 2023) 1000.
    """

    task = "depth"
    required_targets = ("depth",)
    depth_type: str = "depth"
    largest_depth = math.inf

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        camera: Camera | None,
        canonical_focal: float,
    ) -> None:
        super().__init__(channels, strides, classes)
        if not 0 < canonical_focal < math.inf:
            raise ValueError(f"canonical_focal is {canonical_focal:g}; a number of pixels above 0 is expected.")
        self.canonical_focal = None if camera is None else canonical_focal

    def check(self, dataset: Dataset) -> None:
        """Raises ConfigError if most depths of the data set are beyond `largest_depth`; warns if some are. For a
        canonical camera, raises ConfigError if a zoom changes depth and focal length differently, and DataError without
        a focal length.

        dataset: its images are resized as for evaluation, for a canonical camera.
        """
        super().check(dataset)
        provides = getattr(dataset, "provides", ())
        types = provides if isinstance(provides, Mapping) else {}
        zoom, focal_zoom = (getattr(types.get(key), "under_zoom", "divide") for key in ("depth", "focal"))
        if self.canonical_focal is not None and zoom != focal_zoom:
            raise ConfigError(
                f"has a canonical camera, and under_zoom is {zoom!r} for the data set's depth, {focal_zoom!r} for its "
                f"focal length. Fix: the type FocalLength({zoom!r}) for `focal` in `provides`."
            )
        if self.canonical_focal is not None or self.largest_depth < math.inf:
            check_max_depth(dataset, self.largest_depth, self.canonical_focal)

    def truth(self, targets: Sequence[Targets], device: torch.device) -> Tensor:
        """`depth_maps`, (B, H, W), in canonical metres for a canonical camera."""
        return depth_maps(targets, device, self.canonical_focal)

    def depths(self, targets: Sequence[Targets]) -> list[Tensor]:
        """The depth of each labelled image, (H, W), as in `truth`."""
        return [canonical_depth(target, self.canonical_focal) for target in targets if "depth" in target]

    def read_maps(self, maps: Tensor) -> dict[str, Tensor]:
        """(B, 1, H, W) of `maps` -> `depth_type` (B, H, W)."""
        return {self.depth_type: maps[:, 0]}

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """The predictions of `read_maps`, (H, W) per image at its original size."""
        predictions = []
        for i, target in enumerate(targets):
            image = {key: value[i : i + 1] for key, value in outputs.items() if isinstance(value, Tensor)}
            x, original = self.maps(image, tuple(target["size"])), tuple(target["original_size"])
            if tuple(x.shape[-2:]) != original:
                x = F.interpolate(x, size=original, mode="bilinear", align_corners=False)
            predictions.append({key: values[0] for key, values in self.read_maps(x).items()})
        return predictions
