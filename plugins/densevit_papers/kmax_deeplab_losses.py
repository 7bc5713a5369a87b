"""What kMaX-DeepLab (Yu et al. 2022) has in place of MaX-DeepLab's losses at all pixels: sampled pixels, and the
pixel-contrastive loss of CMT-DeepLab (Yu et al. 2022, "Clustering Mask Transformers")."""

from dataclasses import dataclass

import torch
from torch import Tensor

from densevit.set_prediction.limits import check_counts
from densevit_papers.max_deeplab_auxiliary_losses import TAU
from densevit_papers.max_deeplab_masks import GridTruth, mean_over


@dataclass(frozen=True)
class Sampling:
    """kMaX-DeepLab's pixels of the instance and the semantic loss. count: the pixels drawn per image, in both losses.

    A pixel is drawn with a probability proportional to its segment's area to the power of minus `instance` or
    `semantic`: above 1, small segments get more pixels than large ones.
    """

    count: int = 4096
    instance: float = 1.5
    semantic: float = 2.0

    def __post_init__(self) -> None:
        check_counts({"count": self.count})


@torch.no_grad()
def sampled_cells(truth: GridTruth, count: int, power: float, generator: torch.Generator | None) -> Tensor:
    """Indices of at most `count` cells, drawn without repetition, labelled ones first (Gumbel top-k).

    The logits are `power` times the logarithm of 1 / area of the cell's segment.
    """
    areas = truth.masks.sum(1).clamp(min=1)  # (N,)
    area = (truth.masks * areas[:, None]).sum(0).clamp(min=1).float()  # (P,)
    noise = torch.rand(area.shape, generator=generator, device=area.device).clamp(1e-20, 1 - 1e-7)
    scores = -power * area.log() - (-noise.log()).log()
    scores = scores.masked_fill(~truth.labelled, float("-inf"))
    return scores.topk(min(count, len(area))).indices


def pixel_contrast(f: Tensor, truth: GridTruth) -> Tensor:
    """Cross-entropy over pairs of the A drawn pixels, with pairs of the same segment as equally likely targets.

    f: features (C, A), normalised.
    """
    m = truth.masks.to(f.dtype)  # (N, A)
    positives = m.T @ m  # (A, A)
    positives = positives / positives.sum(0).clamp(min=1)
    similarity = f.T @ f / TAU
    similarity = similarity.masked_fill(~truth.labelled[:, None], torch.finfo(similarity.dtype).min)
    return mean_over(truth.labelled, -(positives * similarity.log_softmax(dim=0)).sum(0))
