"""Class losses of images in which only some classes are labelled, by hand."""

import math

import pytest
import torch

from densevit.losses import HungarianLoss, MatchingCosts
from densevit.losses.context import LossContext
from densevit.losses.dense_detection import dense_detection
from densevit.losses.matching import Objects, class_probabilities, labelled_classes
from densevit.losses.set_losses import BINARY_LOSSES
from densevit.set_prediction.criterion import SetCriterion
from densevit.set_prediction.denoising import ContrastiveDenoising

ONLY_FIRST, ONLY_SECOND = torch.tensor([True, False]), torch.tensor([False, True])
EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "size": (1, 1)}
OF_SECOND = {"boxes": torch.tensor([[0.0, 0.0, 1.0, 1.0]]), "labels": torch.tensor([1]), "size": (1, 1)}
BOX = torch.tensor([0.5, 0.5, 1.0, 1.0])
LN2 = math.log(2)
NEGATIVE = {"focal": 0.75 * 0.25 * LN2, "varifocal": 0.75 * 0.25 * LN2, "mal": 0.5**1.5 * LN2, "iou_aware": LN2 / 4}
"""The loss of a negative class with the logit 0."""


def test_images_without_the_key_have_all_classes():
    assert labelled_classes([EMPTY, EMPTY], torch.device("cpu")) is None
    objects = Objects.of(
        [{**EMPTY, "labelled": ONLY_FIRST}, OF_SECOND, {"size": (1, 1), "labelled": ONLY_SECOND}], BOX.device
    )
    assert objects.labelled.tolist() == [[[True, False]], [[True, True]], [[False, True]]]
    assert objects.select([0, 1]).labelled.tolist() == [[[True, False]], [[True, True]]]


def test_probabilities_in_matching_are_over_labelled_classes_and_the_object_s():
    """Logits 0, log 2, log 3 of two classes and "no object"; the third object's class is not labelled in its image."""
    logits = torch.tensor([0.0, math.log(2), math.log(3)]).expand(1, 2, 1, 3)
    labels, image = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0])
    every = class_probabilities(logits, labels, image, None).flatten()
    torch.testing.assert_close(every, torch.tensor([1 / 6, 2 / 6, 2 / 6]))
    labelled = torch.stack([ONLY_FIRST, ONLY_SECOND])[:, None]
    some = class_probabilities(logits, labels, image, labelled).flatten()
    torch.testing.assert_close(some, torch.tensor([1 / 4, 2 / 5, 2 / 6]))


@pytest.mark.parametrize("classification", NEGATIVE)
def test_binary_losses_leave_out_the_terms_of_unlabelled_classes(classification: str):
    """Of two images with a query each, three classes are negative."""
    loss = HungarianLoss(classification=classification)
    logits = torch.zeros(1, 2, 1, 2, requires_grad=True)
    label = loss(logits, BOX.expand(1, 2, 1, 4), [{**EMPTY, "labelled": ONLY_FIRST}, EMPTY])["label"]
    torch.testing.assert_close(label, torch.tensor(3 * NEGATIVE[classification]))
    label.backward()
    assert (logits.grad != 0).tolist() == [[[[True, False]], [[True, True]]]]
    assert BINARY_LOSSES.keys() - NEGATIVE.keys() == {"varifocal_matched"}, "another bound of matched predictions only"


@pytest.mark.parametrize(
    ("target", "denominator", "numerator"),
    [
        ({**EMPTY, "labelled": ONLY_FIRST}, 3 + 1, 1),  # "no object"
        ({**OF_SECOND, "labelled": ONLY_SECOND}, 5 + 1, 5),
        ({**OF_SECOND, "labelled": ONLY_FIRST}, 3 + 5 + 1, 5),  # others of its class may be unlabelled
        (OF_SECOND, 3 + 5 + 1, 5),
    ],
)
def test_unlabelled_classes_leave_the_softmax(target, denominator: int, numerator: int):
    logits = torch.tensor([3.0, 5.0, 1.0]).log().view(1, 1, 1, 3)
    label = HungarianLoss()(logits, BOX.view(1, 1, 1, 4), [target])["label"]
    torch.testing.assert_close(label, torch.tensor(-math.log(numerator / denominator)))


@pytest.mark.parametrize(("labelled", "negatives"), [(ONLY_FIRST, 1), (ONLY_FIRST | True, 2)])
def test_cells_have_no_negatives_of_unlabelled_classes(labelled: torch.Tensor, negatives: int):
    objects = Objects.of([{**EMPTY, "labelled": labelled}], BOX.device)
    cells = torch.zeros(1, 1, 2), BOX.view(1, 1, 4), BOX[:2].view(1, 1, 2), torch.zeros(1, 1, dtype=torch.bool)
    label = dense_detection(*cells, objects, LossContext()).label
    torch.testing.assert_close(label, torch.tensor(negatives * NEGATIVE["mal"]))


def test_denoising_queries_have_the_classes_of_their_images():
    """An object of class 1 in each image; 2 queries of each: positive, then negative ones. Class 0 is unlabelled in the
    second image, and class 1, of which there is one object, in the third."""
    denoising = ContrastiveDenoising(8, 2, 1)
    criterion = SetCriterion(MatchingCosts(), classification="focal", denoising=denoising)
    targets = [OF_SECOND, {**OF_SECOND, "labelled": ONLY_SECOND}, {**OF_SECOND, "labelled": ONLY_FIRST}]
    predictions = torch.zeros(1, 6, 2), BOX.expand(1, 6, 4), torch.arange(3)
    objects = Objects.of(targets, BOX.device)
    expected = 3 * 0.25 * 0.25 * LN2 + (3 + 1 + 2) * NEGATIVE["focal"]  # three positive, six negative classes
    torch.testing.assert_close(
        criterion.denoising_loss(predictions, objects, LossContext()), torch.tensor(expected / 3)
    )
