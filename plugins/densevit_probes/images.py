"""k-NN and a linear probe for image classification, on the mean of the last map."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.evaluation.image_classification import Classification
from densevit.interfaces import Batch, Class, Predictions
from densevit.layers.pooling import masked_mean
from densevit_probes.feature_classifiers import logistic_regression, mean_and_std, most_similar
from densevit_probes.probe import Encode, Probe


class ImageProbe(Probe):
    """A classifier of images by the mean of their coarsest map; metrics as in `Classification`.

    Subclasses implement `fit_features` and `scores`.
    """

    task = "classification"
    required_targets = ("image_class",)
    evaluator = Classification

    def features(self, encode: Encode, batch: Batch, stride: int) -> list[tuple[Tensor, int]]:
        """The feature (C,) and the class of each image, -1 if unknown."""
        maps, mask = encode(batch)[-1], batch["padding_mask"]
        sides = (0, stride * maps.shape[3] - mask.shape[2], 0, stride * maps.shape[2] - mask.shape[1])
        means = masked_mean(maps, F.pad(mask, sides, value=True))
        labels = [int(target.get("truth", {}).get("image_class", -1)) for target in batch["targets"]]
        return list(zip(means, labels, strict=True))

    def fit(self, images: Sequence[tuple[Tensor, int]]) -> None:
        """Fits the classifier to the training images that have a class."""
        labelled = [(feature, label) for feature, label in images if label >= 0]
        if not labelled:
            raise ConfigError("no training image has a class. Fix: label some images, or remove the probe.")
        features = torch.stack([feature for feature, _ in labelled])
        self.fit_features(features, torch.tensor([label for _, label in labelled], device=features.device))

    def predict(self, image: tuple[Tensor, int], size: tuple[int, int]) -> Predictions:
        return {"class_scores": self.scores(image[0][None])[0]}

    @abstractmethod
    def fit_features(self, features: Tensor, labels: Tensor) -> None:
        """Fits the classifier. features: (N, C) float32. labels: (N,) int64 on its device."""

    @abstractmethod
    def scores(self, features: Tensor) -> Tensor:
        """Returns the scores of all classes, (B, K), whose rows sum to 1. features: (B, C)."""


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
