"""Labelled images of a batch in which one is not labelled."""

import torch

from densevit.losses.matching import MatchedPairs
from densevit.set_prediction.labelled_objects import LabelledObjects, object_counts

CPU = torch.device("cpu")


def test_images_without_boxes_and_labels_are_left_out():
    targets = [
        {"boxes": torch.rand(n, 4), "labels": torch.arange(n), "size": (9, 9), "image_id": n} for n in (2, 3, 0, 1)
    ]
    del targets[1]["labels"]
    objects = LabelledObjects.of(targets, CPU).objects
    assert object_counts(targets) == objects.counts == objects.names == [2, 0, 1]
    assert objects.labels.tolist() == [0, 1, 0] and objects.image.tolist() == [0, 0, 2]
    labelled, values = LabelledObjects.of(targets, CPU), torch.arange(8).view(2, 4)
    assert [x.tolist() for x in labelled.select([values], dim=1)] == [[[0, 2, 3], [4, 6, 7]]]
    pairs = MatchedPairs(torch.tensor([0, 0, 3]), torch.zeros(1, 3), torch.tensor([[1, 0, 2]]))
    assert labelled.select_pairs(pairs).image.tolist() == [0, 0, 2]
    assert LabelledObjects.of(targets[:1], CPU).select([values])[0] is values
