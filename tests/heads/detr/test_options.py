"""The heads `detr`, `dab_detr` and `ddq` beyond the contract: memory, queries, denoising and predictions."""

from typing import Any

import pytest
import torch

from densevit.interfaces import Class
from densevit.losses.matching import Objects
from densevit.set_prediction.denoising import Denoising
from densevit.set_prediction.transformer import Transformer
from densevit_heads.dab_detr import DabDetr
from densevit_heads.detr import Detr
from tests.heads.padded_batch import padded_batch

CLASSES = [Class(name, i, (0, 0, 0)) for i, name in enumerate("abcd")]
LEVELS = ((6, 8), (10, 16))


def batch(*counts: int) -> Any:
    return padded_batch(counts, LEVELS, num_classes=4)


def test_a_denoising_group_attends_to_itself_and_the_object_queries():
    denoising = Denoising(width=8, num_classes=4, groups=3)
    objects = Objects.of(batch(2, 0, 1)[2], torch.device("cpu"))
    noised = denoising(objects, num_queries=4)
    assert noised.contents.shape == (3, 6, 8) and noised.boxes.shape == (3, 6, 4)
    visible = [
        [[query for query, bias in enumerate(row) if bias == 0] for row in image[0]]
        for image in noised.attention_bias.tolist()
    ]
    object_queries = [6, 7, 8, 9]
    assert visible[0] == [[i, i + 1, *object_queries] for i in (0, 2, 4) for _ in range(2)] + [object_queries] * 4
    assert visible[1] == [object_queries] * 10  # padding only
    assert visible[2] == [[i, *object_queries] for i in (0, 2, 4) for _ in range(2)] + [object_queries] * 4
    found = sorted(zip(*(x.tolist() for x in (noised.image, noised.query, noised.target)), strict=True))
    first = [(0, query, target) for query, target in enumerate([0, 1, 0, 1, 0, 1])]
    assert found == [*first, (2, 0, 2), (2, 2, 2), (2, 4, 2)]


TWO_CLASSES = [Class("a", 1, (0, 0, 0)), Class("b", 2, (0, 0, 0))]
TARGETS = [
    {"size": (40, 80), "original_size": (100, 200)},  # h, w
    {"size": (32, 16), "original_size": (300, 50)},
]


def head_of(classification: str) -> Detr | DabDetr:
    transformer = Transformer(8, 2, 1, 1, 8)
    if classification == "softmax":
        return Detr((4,), (8,), TWO_CLASSES, 3, transformer)
    return DabDetr((4,), (8,), TWO_CLASSES, 3, transformer, classification=classification)  # type: ignore[arg-type]


def outputs_of(probabilities: torch.Tensor, softmax: bool) -> dict[str, torch.Tensor]:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.25, 0.75, 0.1, 0.2], [0.9, 0.1, 0.4, 0.4]])
    return {"logits": probabilities.log() if softmax else probabilities.logit(), "boxes": boxes.expand(2, 3, 4)}


def test_softmax_gives_each_querys_best_class_by_descending_score():
    """The no-object column is never a prediction, even where it has the highest probability."""
    probabilities = torch.tensor(
        [[[0.2, 0.1, 0.7], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]], [[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.05, 0.9, 0.05]]]
    )
    first, second = head_of("softmax").predict(outputs_of(probabilities, softmax=True), TARGETS)
    assert first["scores"].tolist() == pytest.approx([0.8, 0.4, 0.2])
    assert first["labels"].tolist() == [1, 1, 0]
    assert first["boxes"].tolist() == [
        pytest.approx([40, 65, 60, 85], abs=1e-3),
        pytest.approx([140, 0, 200, 30], abs=1e-3),  # cut off at the image's edge
        pytest.approx([50, 37.5, 150, 62.5], abs=1e-3),
    ]
    assert second["scores"].tolist() == pytest.approx([0.9, 0.6, 0.3])
    assert second["labels"].tolist() == [1, 0, 1]
    assert second["boxes"].tolist() == [
        pytest.approx([35, 0, 50, 90], abs=1e-3),
        pytest.approx([12.5, 112.5, 37.5, 187.5], abs=1e-3),
        pytest.approx([10, 195, 15, 255], abs=1e-3),
    ]


@pytest.mark.parametrize("classification", ["focal", "mal"])
def test_sigmoid_gives_the_best_pairs_of_query_and_class(classification: str):
    """A query may be predicted as two classes, and another not at all."""
    probabilities = torch.tensor([[0.9, 0.8], [0.1, 0.7], [0.2, 0.3]]).expand(2, 3, 2)
    first, second = head_of(classification).predict(outputs_of(probabilities, softmax=False), TARGETS)
    assert first["scores"].tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert first["labels"].tolist() == [0, 1, 1]
    wide, small = [50, 37.5, 150, 62.5], [40, 65, 60, 85]
    assert [pytest.approx(box, abs=1e-3) for box in (wide, wide, small)] == first["boxes"].tolist()
    assert second["boxes"][0].tolist() == pytest.approx([12.5, 112.5, 37.5, 187.5], abs=1e-3)
