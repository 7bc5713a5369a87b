"""Accuracy from the ranks of the true classes, and tables by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from densevit.evaluation.image_classification import Classification
from densevit.interfaces import Class
from tests.evaluation.evaluated import image_scores_of, tables_of

K = 12
CLASSES = tuple(Class(f"class {i}", i, (0, 0, 0)) for i in range(K))


def images(count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(K - 1, (count,), generator=generator)  # the last class has no image
    logits = torch.randn(count, K, generator=generator) + 1.5 * F.one_hot(labels, K)
    return logits.softmax(1), labels


def update(evaluator: Classification, scores: torch.Tensor, labels: torch.Tensor, ids: range) -> None:
    evaluator.update(
        [{"class_scores": scores[i]} for i in ids], [{"image_id": i, "image_class": labels[i]} for i in ids]
    )


def test_accuracy_is_of_the_best_classes_in_any_order_of_batches():
    scores, labels = images()
    evaluator = Classification(CLASSES)
    for start in (100, 0, 150, 50):
        update(evaluator, scores, labels, range(start, start + 50))
    update(evaluator, scores.flip(1), labels, range(30))  # repeated images count once
    found = evaluator.metrics()
    ranks = np.array([(row > row[label]).sum() for row, label in zip(scores.numpy(), labels.tolist(), strict=True)])
    assert found["top1"] == pytest.approx((ranks == 0).mean()) and found["top5"] == pytest.approx((ranks < 5).mean())
    by_class = [(ranks[labels.numpy() == k] == 0).mean() for k in range(K - 1)]
    assert found["mAcc"] == pytest.approx(np.mean(by_class))
    assert image_scores_of(evaluator)[7] == pytest.approx(float(scores[7, labels[7]]))


def test_tables_by_hand():
    evaluator = Classification(CLASSES[:2])
    update(evaluator, torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), torch.tensor([0, 1, 1]), range(3))
    tables = tables_of(evaluator)
    assert tables["confusion"][1:] == [["class 0", 1, 0], ["class 1", 1, 1]]
    assert list(tables["classes"][1:]) == [("class 0", 1, 1.0, 0.5), ("class 1", 2, 0.5, 1.0)]
