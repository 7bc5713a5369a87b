"""Accuracy beside torchmetrics; k-NN beside brute force; the linear probe at the optimum of its objective."""

import math

import pytest
import torch
from torch.nn import functional as F

from densevit.evaluation.feature_probes import LinearProbe, NearestNeighbours
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


def test_equals_torchmetrics_in_any_order_of_batches():
    from torchmetrics.functional.classification import multiclass_accuracy

    scores, labels = images()
    evaluator = Classification(CLASSES)
    for start in (100, 0, 150, 50):
        update(evaluator, scores, labels, range(start, start + 50))
    update(evaluator, scores.flip(1), labels, range(30))  # repeated images count once
    found = evaluator.metrics()
    for name, k in (("top1", 1), ("top5", 5)):
        expected = multiclass_accuracy(scores, labels, K, average="micro", top_k=k)
        assert found[name] == pytest.approx(float(expected), abs=1e-6)
    by_class = multiclass_accuracy(scores, labels, K, average="none")[: K - 1]
    assert found["mAcc"] == pytest.approx(float(by_class.mean()), abs=1e-6)
    assert image_scores_of(evaluator)[7] == pytest.approx(float(scores[7, labels[7]]))


def test_tables_by_hand():
    evaluator = Classification(CLASSES[:2])
    update(evaluator, torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), torch.tensor([0, 1, 1]), range(3))
    tables = tables_of(evaluator)
    assert tables["confusion"][1:] == [["class 0", 1, 0], ["class 1", 1, 1]]
    assert list(tables["classes"][1:]) == [("class 0", 1, 1.0, 0.5), ("class 1", 2, 0.5, 1.0)]


def features(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (count,), generator=generator)
    x = 3 + 2 * torch.randn(count, 8, generator=generator) + 2 * F.one_hot(labels, 8)
    return x, labels


def test_nearest_neighbours_equal_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("densevit.evaluation.feature_probes._CHUNK", 1000)  # several chunks
    (x, labels), (queries, truth) = features(300, 0), features(40, 1)
    probe = NearestNeighbours(CLASSES[:5], k=20)
    probe.fit_features(x, labels)
    expected = torch.zeros(40, 5, dtype=torch.float64)
    for i, query in enumerate(queries.double()):
        similarity = [float(query @ row / (query.norm() * row.norm())) for row in x.double()]
        for j in sorted(range(300), key=lambda j: -similarity[j])[:20]:
            expected[i, labels[j]] += math.exp(similarity[j] / 0.07)
    expected /= expected.sum(1, keepdim=True)
    torch.testing.assert_close(probe.scores(queries).double(), expected, atol=1e-4, rtol=1e-4)
    probe.update(
        [{"feature": (query, 0)} for query in queries], [{"image_id": i, "image_class": y} for i, y in enumerate(truth)]
    )
    assert probe.metrics()["top1"] == pytest.approx(float((expected.argmax(1) == truth).double().mean()))


def test_linear_probe_is_the_optimum_of_its_objective() -> None:
    """The objective is strictly convex in the weights: a gradient of 0 is the optimum."""
    x, labels = features(300, 0)
    probe = LinearProbe(CLASSES[:5], inverse_regularization=0.5)
    with torch.inference_mode():  # as in a validation
        probe.fit_features(x, labels)
    standardised = ((x - x.mean(0)) / x.std(0, correction=0)).double()
    weight, bias = (one.clone().double().requires_grad_() for one in (probe.weight, probe.bias))
    loss = F.cross_entropy(F.linear(standardised, weight, bias), labels) + weight.square().sum() / (2 * 0.5 * 300)
    loss.backward()
    assert weight.grad is not None and bias.grad is not None
    assert weight.grad.abs().max() < 1e-4 and bias.grad.abs().max() < 1e-4
    expected = F.linear(standardised, weight, bias).softmax(1)
    torch.testing.assert_close(probe.scores(x).double(), expected.detach(), atol=1e-4, rtol=1e-4)
    assert (probe.scores(x).argmax(1) == labels).float().mean() > 0.4
