"""The area under the ROC curve of "same object" beside brute force over pairs, and the objects of patches by hand."""

import math

import numpy as np
import pytest
import torch

from densevit.targets.run_length_masks import RunLengthMasks
from densevit_probes import same_object
from densevit_probes.same_object import patch_objects, same_object_auc

CLASSES = [0, 0, 1, 0]  # of the objects 1 to 4


def image(seed: int, patches: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of four signs, so that similarities are exact and tie: an object's, of which a quarter is flipped."""
    generator = torch.Generator().manual_seed(seed)
    objects = torch.randint(-1, 5, (patches,), generator=generator)
    signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [-1, -1, 1, 1], [-1, 1, 1, -1], [1, 1, 1, -1.0]])
    return signs[objects] * (1 - 2 * (torch.rand(patches, 4, generator=generator) < 0.25).float()), objects


def brute_force(features: np.ndarray, objects: np.ndarray, classes: list[int] | None) -> float:
    """Of each patch, the share of right pairs of a patch of its object and one of none: the definition of the area."""
    means = []
    for i in np.flatnonzero(objects > 0):
        likeness = {j: float(features[i] @ features[j]) for j in range(len(objects))}
        same = [j for j in likeness if objects[j] == objects[i] and j != i]
        other = [j for j in likeness if objects[j] >= 0 and objects[j] != objects[i]]
        if classes is not None:
            other = [j for j in other if objects[j] > 0 and classes[objects[j] - 1] == classes[objects[i] - 1]]
        right = [(likeness[a] > likeness[b]) + (likeness[a] == likeness[b]) / 2 for a in same for b in other]
        means += [sum(right) / len(right)] if right else []
    return sum(means) / len(means)


@pytest.mark.parametrize("chunk", [1, 200, 1 << 22])
@pytest.mark.parametrize("classes", [None, CLASSES])
def test_the_area_is_brute_force_in_parts_of_any_size(classes, chunk, monkeypatch):
    monkeypatch.setattr(same_object, "_CHUNK", chunk)
    for seed in range(3):
        features, objects = image(seed)
        expected = brute_force(features.numpy(), objects.numpy(), classes)
        assert same_object_auc(features, objects, classes) == pytest.approx(expected, abs=1e-6)
        assert expected > 0.55


def test_an_image_without_pairs_has_no_score():
    for objects in ([], [0, 0, -1], [0, 1, -1], [1, 1, 1]):
        assert math.isnan(same_object_auc(torch.ones(len(objects), 2), torch.tensor(objects, dtype=torch.int64)))


def test_objects_of_patches_by_hand():
    """An image of 6 x 10 pixels in patches of 4 x 4, on a grid of 2 x 4: the last column is outside. The patches of the
    lower row have 2 rows in the image."""
    masks = np.zeros((4, 6, 10), bool)
    masks[0, :4, :2] = True  # half of the first patch: none
    masks[1, :6, 3:8] = True  # a quarter of the first column, all of the second
    masks[2, :4, 4:7] = True  # three quarters of a patch that object 2 covers completely
    masks[3, 4:, 8:] = True  # a crowd, all of the third patch of the lower row
    coded = RunLengthMasks.from_dense(masks, (6, 10))
    objects = patch_objects(coded, [False, False, False, True], (2, 4), 4, (6, 10))
    assert objects.tolist() == [0, 2, 0, -1, 0, 2, -1, -1]
    masks[2, :4, :4] = True
    objects = patch_objects(masks, [False] * 4, (2, 4), 4, (6, 10))
    assert objects.tolist() == [3, 2, 0, -1, 0, 2, 4, -1]
