"""What torchvision's detectors share: the options of their predictions."""

from collections.abc import Sequence
from typing import ClassVar

from densevit.interfaces import Class, Head
from densevit.set_prediction.limits import check_classes, check_counts


class Detector(Head):
    """A head of boxes with NMS. Raises ValueError for options outside of their range."""

    task = "detection"
    required_targets: ClassVar[tuple[str, ...]] = ("boxes", "labels")
    nms: float

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        stride: int,
        nms: float,
        score_threshold: float,
        max_predictions: int,
    ) -> None:
        super().__init__(channels, strides, classes)
        self.finest_stride = stride
        check_classes(classes)
        check_counts({"stride": stride, "max_predictions": max_predictions})
        if not 0 < nms <= 1:
            raise ValueError(f"nms is {nms}; an IoU above 0, at most 1 is expected.")
        if not 0 <= score_threshold < 1:
            raise ValueError(f"score_threshold is {score_threshold}; a score from 0 to below 1 is expected.")
        self.nms, self.max_predictions = nms, max_predictions
