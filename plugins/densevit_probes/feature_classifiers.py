"""What probes fit to features: the most similar ones, standardisation, logistic regression."""

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 1 << 25  # similarities computed at once


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
