"""The commands that train on a folder that doctor recognised: the shipped recipes whose labels it has."""

import math
import re
import shlex
from collections.abc import Iterable, Sequence

from densevit_workbench.doctor.split_statistics import SplitStatistics
from densevit_workbench.doctor.target_measures import KNOWN_VALUES

STARTS = {
    "boxes": "start/detector",
    "masks": "start/instances",
    "panoptic": "start/panoptic",
    "semantic": "start/semantic",
    "depth": "start/depth",
    "image_class": "start/classifier",
}
"""The shipped recipe for each target key."""
_RECOGNISED = re.compile(r"^data\.name=(?:coco|yolo|voc|label_maps|depth|image_folder) data\.root=")


def next_commands(recognised: str, overrides: Sequence[str], train: SplitStatistics, masks: bool) -> Iterable[str]:
    """Yields a command for each recipe that can be trained. recognised: the keys of the data section. masks: whether
    all objects have a polygon or mask, though data.masks is not set."""
    # A name without a slash could also be that of a shipped section.
    folder = _RECOGNISED.sub("data=" if "/" in recognised else "data=./", recognised)
    keys = [*train.provides, *(["masks"] if masks and "masks" not in train.provides else [])]
    for key in STARTS if "panoptic" not in keys else ["panoptic"]:
        if key in keys:
            words = [
                recognised if key == "panoptic" else folder,
                *map(shlex.quote, overrides),
                *_max_depth(key, train, overrides),
            ]
            yield " ".join([f"densevit train {STARTS[key]}", *words])


def _max_depth(key: str, train: SplitStatistics, overrides: Sequence[str]) -> list[str]:
    """The option for the largest depth, in metres; none for other labels and relative depth."""
    values = train.measures.get("depth", {}).get(KNOWN_VALUES, ())
    if key != "depth" or not len(values) or "data.metric=false" in overrides:
        return []
    return [f"heads.depth.max_depth={math.ceil(max(values))}"]
