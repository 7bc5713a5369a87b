"""Classification by frozen features: k-NN and linear probe, to evaluate any training method (`probes`)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.evaluation.image_classification import Classification
from densevit.interfaces import Class, Predictions, Targets
from densevit.layers.precision import autocast_off

_CHUNK = 1 << 24  # similarities computed at once


class FeatureProbe(Classification):
    """A classifier of features, fitted to the training images before each validation; metrics as in `Classification`.

    Subclasses implement `fit` and `scores`. `densevit.training.loop.probes` computes the features.
    """

    reads = ("feature",)

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Fits the classifier to the training images. features: (N, C) float32. labels: (N,) int64 on its device."""
        raise NotImplementedError(f"{type(self).__name__} is a FeatureProbe and must implement fit(features, labels).")

    def scores(self, features: Tensor) -> Tensor:
        """Returns the scores of all classes, (B, K), whose rows sum to 1. features: (B, C)."""
        raise NotImplementedError(f"{type(self).__name__} is a FeatureProbe and must implement scores(features).")

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """Adds images.

        predictions: feature (C,). truths: targets with `image_class`, as `Classification` reads them.
        """
        features = torch.stack([prediction["feature"] for prediction in predictions])
        with autocast_off(features.device):
            scores = self.scores(features)
        super().update([{"class_scores": row} for row in scores], truths)


class NearestNeighbours(FeatureProbe):
    """Weighted k-nearest-neighbour classifier (Wu et al. 2018, section 3.4), as in DINO (Caron et al. 2021).

    Each of the k training images with the most similar features votes for its class, with the weight exp(s /
    temperature) of its cosine similarity s.
    """

    def __init__(self, classes: Sequence[Class], k: int = 20, temperature: float = 0.07) -> None:
        super().__init__(classes)
        if k < 1 or not temperature > 0:
            raise ConfigError(f"k is {k} and temperature {temperature:g}; at least 1 and above 0 are expected.")
        self.k, self.temperature = k, temperature

    def fit(self, features: Tensor, labels: Tensor) -> None:
        self._features, self._labels = F.normalize(features, dim=1), labels

    def scores(self, features: Tensor) -> Tensor:
        votes = features.new_zeros(len(features), len(self.classes))
        rows = max(1, _CHUNK // len(self._features))
        for part, out in zip(F.normalize(features, dim=1).split(rows), votes.split(rows), strict=True):
            similarity, index = (part @ self._features.T).topk(min(self.k, len(self._features)), dim=1)
            out.scatter_add_(1, self._labels[index], (similarity / self.temperature).softmax(1))
        return votes


class LinearProbe(FeatureProbe):
    """Multinomial logistic regression on standardised features, fitted by L-BFGS.

    It minimises the mean cross-entropy of the N training images plus |W|^2 / (2 C N), as scikit-learn's
    LogisticRegression with `C`.

    inverse_regularization: C. max_iterations: the most iterations of L-BFGS.
    """

    def __init__(
        self, classes: Sequence[Class], inverse_regularization: float = 1.0, max_iterations: int = 200
    ) -> None:
        super().__init__(classes)
        if not inverse_regularization > 0 or max_iterations < 1:
            raise ConfigError(
                f"inverse_regularization is {inverse_regularization:g} and max_iterations {max_iterations}; above 0 "
                "and at least 1 are expected."
            )
        self.inverse_regularization, self.max_iterations = inverse_regularization, max_iterations

    def fit(self, features: Tensor, labels: Tensor) -> None:
        self._mean, self._std = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
        x, strength = self._standardised(features), 1 / (2 * self.inverse_regularization * len(features))
        with torch.inference_mode(False), torch.enable_grad():
            x, labels = x.clone(), labels.clone()
            weight = x.new_zeros(len(self.classes), x.shape[1]).requires_grad_()
            bias = x.new_zeros(len(self.classes)).requires_grad_()
            optimizer = torch.optim.LBFGS(
                [weight, bias], max_iter=self.max_iterations, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
            )

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(F.linear(x, weight, bias), labels) + strength * weight.square().sum()
                loss.backward()
                return loss

            optimizer.step(closure)
        self.weight, self.bias = weight.detach(), bias.detach()

    def scores(self, features: Tensor) -> Tensor:
        return F.linear(self._standardised(features), self.weight, self.bias).softmax(1)

    def _standardised(self, features: Tensor) -> Tensor:
        return (features - self._mean) / self._std
