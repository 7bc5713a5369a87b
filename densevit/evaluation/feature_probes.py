"""Probes: evaluators of a backbone's frozen features, fitted to the training images before each validation.

The section `probes` of a config names them. Here: k-NN and a linear probe for image classification.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.evaluation.image_classification import Classification, ClassRank
from densevit.interfaces import Batch, Class, Evaluator, Predictions, Targets
from densevit.layers.pooling import masked_mean
from densevit.layers.precision import autocast_off

Encode = Callable[[Batch], list[Tensor]]
"""The backbone's feature maps of a batch, (B, C_i, h_i, w_i) float32 each."""

_CHUNK = 1 << 25  # similarities computed at once
FEATURE = "feature"  # the key in predictions of what `FeatureProbe.features` returns


class FeatureProbe(Evaluator):
    """An evaluator of the features of a frozen backbone.

    Before each validation, `fit` gets what `features` returns for the training images; `update` gets it for the
    validation images, as `feature` in their predictions.

    task: whose classes the constructor gets; None: none. needs: target keys of the training images, which `features`
    reads; (): the probe is not fitted.
    """

    reads = (FEATURE,)
    task: str | None = None
    needs: tuple[str, ...] = ()

    def features(self, encode: Encode, batch: Batch) -> list[Any]:
        """What the probe reads of each image of a batch, such as features with labels; None: not a training image.

        The batch has the evaluation's transform; its targets are on the batch's grid, with `truth` in original pixels.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is a FeatureProbe and must implement features(encode, batch)."
        )

    def fit(self, images: Sequence[Any]) -> None:
        """Fits the probe to the training images of all processes, each once, in the order of the data set."""
        raise NotImplementedError(f"{type(self).__name__} needs {self.needs} and must implement fit(images).")


class ImageProbe(FeatureProbe, Classification):
    """A classifier of images by the mean of their coarsest map; metrics as in `Classification`.

    Subclasses implement `fit_features` and `scores`.
    """

    task = "classification"
    needs = ("image_class",)

    def features(self, encode: Encode, batch: Batch) -> list[tuple[Tensor, int] | None]:
        """The feature (C,) and the class of each image, -1 if unknown."""
        means = masked_mean(encode(batch)[-1], batch["padding_mask"])
        labels = [int(target.get("truth", {}).get("image_class", -1)) for target in batch["targets"]]
        return list(zip(means, labels, strict=True))

    def fit(self, images: Sequence[tuple[Tensor, int]]) -> None:
        """Fits the classifier to the training images that have a class."""
        labelled = [(feature, label) for feature, label in images if label >= 0]
        if not labelled:
            raise ConfigError("no training image has a class. Fix: label some images, or remove the probe.")
        features = torch.stack([feature for feature, _ in labelled])
        self.fit_features(features, torch.tensor([label for _, label in labelled], device=features.device))

    def fit_features(self, features: Tensor, labels: Tensor) -> None:
        """Fits the classifier. features: (N, C) float32. labels: (N,) int64 on its device."""
        raise NotImplementedError(f"{type(self).__name__} must implement fit_features(features, labels).")

    def scores(self, features: Tensor) -> Tensor:
        """Returns the scores of all classes, (B, K), whose rows sum to 1. features: (B, C)."""
        raise NotImplementedError(f"{type(self).__name__} must implement scores(features).")

    def record(self, prediction: Predictions, truth: Targets) -> ClassRank | None:
        """prediction: `feature`, an item of `features`. truth: a target with `image_class`, see `Classification`."""
        [record] = self.batch_records([prediction], [truth])
        return record

    def batch_records(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> Sequence[Any]:
        features = torch.stack([prediction[FEATURE][0] for prediction in predictions])
        with autocast_off(features.device):
            scores = self.scores(features)
        pairs = zip(scores, truths, strict=True)
        return [Classification.record(self, {"class_scores": row}, truth) for row, truth in pairs]


class NearestNeighbours(ImageProbe):
    """Weighted k-nearest-neighbour classifier (Wu et al. 2018, section 3.4), as in DINO (Caron et al. 2021).

    Each of the k training images with the most similar features votes for its class, with the weight exp(s /
    temperature) of its cosine similarity s.
    """

    def __init__(self, classes: Sequence[Class], k: int = 20, temperature: float = 0.07) -> None:
        super().__init__(classes)
        if k < 1 or not temperature > 0:
            raise ConfigError(f"k is {k} and temperature {temperature:g}; at least 1 and above 0 are expected.")
        self.k, self.temperature = k, temperature

    def fit_features(self, features: Tensor, labels: Tensor) -> None:
        self._features, self._labels = F.normalize(features, dim=1), labels

    def scores(self, features: Tensor) -> Tensor:
        similarity, index = most_similar(F.normalize(features, dim=1), self._features, self.k)
        votes = features.new_zeros(len(features), len(self.classes))
        return votes.scatter_add_(1, self._labels[index], (similarity / self.temperature).softmax(1))


class LinearProbe(ImageProbe):
    """Multinomial logistic regression on standardised features, fitted by L-BFGS; see `logistic_regression`.

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

    def fit_features(self, features: Tensor, labels: Tensor) -> None:
        self._mean, self._std = mean_and_std(features)
        self.weight, self.bias = logistic_regression(
            (features - self._mean) / self._std,
            labels,
            len(self.classes),
            self.inverse_regularization,
            self.max_iterations,
        )

    def scores(self, features: Tensor) -> Tensor:
        return F.linear((features - self._mean) / self._std, self.weight, self.bias).softmax(1)


def most_similar(queries: Tensor, keys: Tensor, k: int, distance: str = "cosine") -> tuple[Tensor, Tensor]:
    """The similarities and the indices of the k keys that are most similar to each query, (N, k) each; fewer if there
    are fewer keys.

    queries: (N, C), keys: (M, C); for "cosine" of length 1. distance: "cosine": the similarity is the product; "l2":
    the negative Euclidean distance.
    """
    parts = []
    for part in queries.split(max(1, _CHUNK // len(keys))):
        similarity = part @ keys.T if distance == "cosine" else -torch.cdist(part, keys)
        parts.append(similarity.topk(min(k, len(keys)), dim=1))
    values, indices = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(indices)


def mean_and_std(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each channel, (C,), at least 1e-6. features: (N, C)."""
    return features.mean(0), features.std(0, correction=0).clamp(min=1e-6)


def logistic_regression(
    features: Tensor, labels: Tensor, num_classes: int, inverse_regularization: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression by L-BFGS: the weight W (K, C) and the bias (K,).

    Minimises the mean cross-entropy of N rows plus |W|^2 / (2 C N), as scikit-learn's LogisticRegression with `C`, here
    `inverse_regularization`. features: (N, C) float32. labels: (N,) int64.
    """
    strength = 1 / (2 * inverse_regularization * len(features))
    with torch.inference_mode(False), torch.enable_grad():
        x, labels = features.clone(), labels.clone()
        weight = x.new_zeros(num_classes, x.shape[1]).requires_grad_()
        bias = x.new_zeros(num_classes).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weight, bias], max_iter=max_iterations, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(F.linear(x, weight, bias), labels) + strength * weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
    return weight.detach(), bias.detach()
