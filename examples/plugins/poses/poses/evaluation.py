"""Average precision of keypoints, computed by pycocotools."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import densevit
from densevit.interfaces import Predictions, Targets
from densevit.targets import Boxes, ObjectLabels, Scores
from poses.types import FIGURE, SIGMAS, Tilt

METRICS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")  # in the order of pycocotools
TYPES = {"boxes": Boxes(), "labels": ObjectLabels(), "scores": Scores(), "keypoints": FIGURE, "tilt": Tilt()}

Entries = list[dict[str, Any]]


class KeypointAP(densevit.Evaluator):
    """COCO's average precision and recall by object keypoint similarity (OKS); nan without ground truth."""

    reads = ("boxes", "labels", "scores", "keypoints")
    main = "AP"

    def record(self, prediction: Predictions, truth: Targets) -> tuple[Entries, Entries] | None:
        """Entries of the prediction and of the ground truth."""
        return (self._entries(prediction), self._annotations(truth)) if "keypoints" in truth else None

    def compute(self, records: Sequence[tuple[Entries, Entries]]) -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            stats = self._stats(records)
        return {name: value if value >= 0 else float("nan") for name, value in zip(METRICS, stats, strict=True)}

    def entries(self, record: tuple[Entries, Entries]) -> Entries:
        """Entries of COCO's results format, with `keypoints` and `tilt`."""
        return record[0]

    def _stats(self, records: Sequence[tuple[Entries, Entries]]) -> list[float]:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        annotations = [
            {"image_id": n, "id": 1000 * n + i, **entry}
            for n, (_, entries) in enumerate(records, 1)
            for i, entry in enumerate(entries)
        ]
        results = [{"image_id": n, **entry} for n, (entries, _) in enumerate(records, 1) for entry in entries]
        if not annotations or not results:
            return [0.0 if annotations else -1.0] * len(METRICS)
        truth = COCO()
        truth.dataset = {
            "images": [{"id": n} for n in range(1, len(records) + 1)],
            "categories": [{"id": c.file_id} for c in self.classes],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = SIGMAS
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return [float(value) for value in evaluation.stats]

    def _annotations(self, truth: Targets) -> Entries:
        instances = zip(truth["area"].tolist(), truth["iscrowd"].tolist(), truth["keypoints"][..., 2], strict=True)
        return [
            {**entry, "area": area, "iscrowd": int(crowd), "num_keypoints": int((visibility > 0).sum())}
            for entry, (area, crowd, visibility) in zip(self._entries(truth), instances, strict=True)
        ]

    def _entries(self, values: Mapping[str, Any]) -> Entries:
        """A dict per object, of what each type encodes."""
        columns: dict[str, Any] = {}
        for key in (key for key in TYPES if key in values):
            columns |= TYPES[key].encode(torch.as_tensor(values[key]).cpu().numpy(), self.classes)
        rows = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]
