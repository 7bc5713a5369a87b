"""What checkpoints of heads that classify pixels share: their classes, and the data of recipes."""

from collections.abc import Mapping, Sequence
from typing import Any

from densevit.interfaces import Class, StateDict
from densevit.layouts import segmentation_classes


def classes_of(state: StateDict, metadata: Mapping[str, Any], bias: str) -> dict[str, tuple[Class, ...]]:
    """The classes of a head of semantic segmentation. bias: the key of the classifier's bias."""
    return {"segmentation": segmentation_classes(len(state[bias]), metadata.get("classes") or ())}


def label_maps(classes: Sequence[Class]) -> dict[str, Any]:
    """The section `data` of a recipe for other classes than its own."""
    listed = [{"name": c.name, "id": c.file_id, "color": [*c.color]} for c in classes]
    return {"data": {"name": "label_maps", "classes": listed}}
