"""The images of a batch that have boxes and labels, and their objects."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from densevit.losses.boxes import has_objects
from densevit.losses.distributed import to_device
from densevit.losses.matching import MatchedPairs, Objects


class LabelledObjects(NamedTuple):
    """The labelled images of a batch.

    objects: the objects of these images. images: the images' indices, or None if all are labelled.
    """

    objects: Objects
    images: Tensor | None

    @classmethod
    def of(
        cls, targets: Sequence[Mapping[str, Any]], device: torch.device, objects: Objects | None = None
    ) -> "LabelledObjects":
        """Selects the labelled images. objects: the objects of all targets, if already collected."""
        objects = Objects.of(targets, device) if objects is None else objects
        labelled = [i for i, target in enumerate(targets) if has_objects(target)]
        if len(labelled) == len(targets):
            return cls(objects, None)
        images = to_device(torch.tensor(labelled, dtype=torch.long), objects.boxes.device)
        return cls(objects.select(labelled), images)

    def select(self, values: Sequence[Tensor], dim: int = 0) -> list[Tensor]:
        """The values of labelled images; `dim` is the dimension of the batch."""
        return list(values) if self.images is None else [x.index_select(dim, self.images) for x in values]

    def select_pairs(self, pairs: MatchedPairs) -> MatchedPairs:
        """The pairs with each image's index among the labelled images instead of among all images of the batch."""
        return pairs._replace(image=self.objects.image[pairs.target[0]])


def object_counts(targets: Sequence[Mapping[str, Any]]) -> list[int]:
    """The number of objects of each labelled image."""
    return [len(target["boxes"]) for target in targets if has_objects(target)]
