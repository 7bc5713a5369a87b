"""k-NN and logistic regression of patches, as in the evaluation of CAPI (Darcet et al. 2025, section 4 and appendix).

Features are standardised. Options are selected by the mean IoU on a tenth of the training images; the classifier is
then fitted to all of them.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import Class
from densevit_probes.feature_classifiers import logistic_regression, mean_and_std, most_similar
from densevit_probes.patches import Grid, Patches, PatchProbe, labelled, resized

_HELD_OUT = 10  # one of this number of training images selects the options
_REGULARISATIONS: tuple[float, ...] = tuple((10 ** np.linspace(-6, 5, 8)).tolist())  # CAPI's


class SelectedProbe(PatchProbe):
    """A classifier of patches with an option that training images select.

    Subclasses implement `fit_patches` and `classify`. seed: the seed that draws the images of the selection.
    """

    choices: Sequence[Any]

    def __init__(self, classes: Sequence[Class], seed: int = 0, grid: Grid = "image") -> None:
        super().__init__(classes, grid)
        self.seed = seed

    def fit(self, images: Sequence[Patches]) -> None:
        """Selects the option with the highest mean IoU on a tenth of the images, then fits to all."""
        images = [image for image in images if image.labelled.any()] or images
        order = np.random.default_rng(self.seed).permutation(len(images)).tolist()
        held_out = [images[i] for i in order[: len(images) // _HELD_OUT]]
        fitted = [images[i] for i in order[len(held_out) :]]
        features, labels = labelled(fitted)
        self._mean, self._std = mean_and_std(features)
        self.choice = self.choices[0]
        if held_out and len(self.choices) > 1:
            scores = self._scores((features - self._mean) / self._std, labels, held_out)
            self.choice = self.choices[int(np.argmax(scores))]
        features, labels = labelled([*fitted, *held_out])
        self.fit_patches((features - self._mean) / self._std, labels)

    def _scores(self, features: Tensor, labels: Tensor, images: Sequence[Patches]) -> list[float]:
        """The mean IoU on images, by choice."""
        scores = []
        for choice in self.choices:
            self.choice = choice
            self.fit_patches(features, labels)
            metrics = SemanticSegmentation(self.classes)
            predicted = [image.to_pixels(self._classes_of(image)) for image in images]
            metrics.update(predicted, [image.to_pixels(image.labels) for image in images])
            scores.append(metrics.metrics()["mIoU"])
        return scores

    def _classes_of(self, image: Patches) -> Tensor:
        """The class of each pixel of patches, (h * w, stride^2)."""
        labels = self.classify((image.features - self._mean) / self._std)
        return labels if labels.ndim == 2 else labels[:, None].expand(-1, image.labels.shape[1])

    def label_map(self, image: Patches, size: tuple[int, int]) -> Tensor:
        labels = image.to_pixels(self._classes_of(image).contiguous())
        return labels if tuple(labels.shape) == size else resized(labels, size)

    @abstractmethod
    def fit_patches(self, features: Tensor, labels: Tensor) -> None:
        """Fits the classifier with the option `choice`. features: (N, C). labels: (N, stride^2) uint8."""

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """The class of patches (N,), or of each of their pixels (N, stride^2), uint8. features: (N, C)."""


class PatchKnn(SelectedProbe):
    """The most frequent label of the k nearest training patches, for each pixel of a patch.

    k: numbers of neighbours to select from. distances: distances to select from, "cosine" and "l2".
    """

    def __init__(
        self,
        classes: Sequence[Class],
        k: tuple[int, ...] = (1, 3, 10, 30),
        distances: tuple[str, ...] = ("cosine", "l2"),
        seed: int = 0,
        grid: Grid = "image",
    ) -> None:
        super().__init__(classes, seed, grid)
        if not k or min(k) < 1:
            raise ConfigError(f"k is {list(k)}; numbers of at least 1 are expected.")
        if not distances or not {*distances} <= {"cosine", "l2"}:
            raise ConfigError(f"distances is {list(distances)}; cosine and l2 are expected.")
        self.choices = [(count, distance) for count in k for distance in distances]

    def fit_patches(self, features: Tensor, labels: Tensor) -> None:
        self._labels = labels
        self._features = F.normalize(features, dim=1) if self.choice[1] == "cosine" else features

    def classify(self, features: Tensor) -> Tensor:
        k, distance = self.choice
        queries = F.normalize(features, dim=1) if distance == "cosine" else features
        labels = self._labels[most_similar(queries, self._features, k, distance)[1]]  # (N, k, stride^2)
        votes = torch.stack([(labels == index).sum(1) for index in range(len(self.classes))])
        return votes.argmax(0).to(torch.uint8)


class PatchLogistic(SelectedProbe):
    """Multinomial logistic regression of a patch's most frequent label, by L-BFGS.

    inverse_regularization: values of C to select from (`logistic_regression`). max_iterations: the most iterations
    of L-BFGS.
    """

    def __init__(
        self,
        classes: Sequence[Class],
        inverse_regularization: tuple[float, ...] = _REGULARISATIONS,
        max_iterations: int = 1000,
        seed: int = 0,
        grid: Grid = "image",
    ) -> None:
        super().__init__(classes, seed, grid)
        if not inverse_regularization or not min(inverse_regularization) > 0 or max_iterations < 1:
            raise ConfigError(
                f"inverse_regularization is {list(inverse_regularization)} and max_iterations {max_iterations}; above "
                "0 and at least 1 are expected."
            )
        self.choices, self.max_iterations = inverse_regularization, max_iterations

    def fit_patches(self, features: Tensor, labels: Tensor) -> None:
        modes = labels.mode(dim=1).values.long()
        self.weight, self.bias = logistic_regression(
            features, modes, len(self.classes), self.choice, self.max_iterations
        )

    def classify(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias).argmax(1).to(torch.uint8)
