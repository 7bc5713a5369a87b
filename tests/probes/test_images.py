"""k-NN of images beside brute force; the linear probe at the optimum of its objective."""

import math

import pytest
import torch
from torch.nn import functional as F

from densevit.interfaces import Class
from densevit_probes import feature_classifiers
from densevit_probes.images import LinearProbe, NearestNeighbours

CLASSES = tuple(Class(f"class {i}", i, (0, 0, 0)) for i in range(5))


def features(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (count,), generator=generator)
    return (3 + 2 * torch.randn(count, 8, generator=generator) + 2 * F.one_hot(labels, 8)), labels


def test_nearest_neighbours_equal_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_classifiers, "_CHUNK", 1000)  # several chunks
    (x, labels), queries = features(300, 0), features(40, 1)[0]
    probe = NearestNeighbours(CLASSES, k=20)
    probe.fit_features(x, labels)
    expected = torch.zeros(40, 5, dtype=torch.float64)
    for i, query in enumerate(queries.double()):
        similarity = [float(query @ row / (query.norm() * row.norm())) for row in x.double()]
        for j in sorted(range(300), key=lambda j: -similarity[j])[:20]:
            expected[i, labels[j]] += math.exp(similarity[j] / 0.07)
    expected /= expected.sum(1, keepdim=True)
    torch.testing.assert_close(probe.scores(queries).double(), expected, atol=1e-4, rtol=1e-4)
    for query, row in zip(queries, expected, strict=True):
        scores = probe.predict((query, 0), (8, 8))["class_scores"]
        torch.testing.assert_close(scores.double(), row, atol=1e-4, rtol=1e-4)


def test_linear_probe_is_the_optimum_of_its_objective() -> None:
    """The objective is strictly convex in the weights: a gradient of 0 is the optimum."""
    x, labels = features(300, 0)
    probe = LinearProbe(CLASSES, inverse_regularization=0.5)
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
