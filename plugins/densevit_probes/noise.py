"""The self-test of probes: the scores of a probe that measures features must fall as noise on the features grows."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from densevit.errors import ConfigError


def noised(
    backbone: Callable[[Tensor], list[Tensor]], strength: float, seed: int = 0
) -> Callable[[Tensor], list[Tensor]]:
    """A backbone with Gaussian noise on its maps (B, C_i, h_i, w_i), `strength` times the deviation of each channel.

    The deviation is that over the cells of an image. The noise depends on the seed and the image's pixels: it is the
    same whatever the batch, and differs between two views of an image, which equal noise would make alike.
    """

    def with_noise(images: Tensor) -> list[Tensor]:
        rngs = [np.random.default_rng([seed, crc32(image.cpu().numpy().tobytes())]) for image in images]
        maps = []
        for x in backbone(images):
            noise = np.stack([rng.standard_normal(x.shape[1:], np.float32) for rng in rngs])
            deviations = x.std(dim=(2, 3), correction=0, keepdim=True)
            maps.append(x + strength * deviations * torch.from_numpy(noise).to(x.device, x.dtype))
        return maps

    return with_noise


def falls_with_noise(scores: Mapping[float, float], lower_is_better: bool = False) -> bool:
    """Whether no score is better than that of the strength of noise before it, and the last is worse than the first.

    scores: the score of each strength of noise, at least two. A nan fails.
    """
    if len(scores) < 2:
        raise ConfigError(f"there are scores of {len(scores)} strengths of noise; at least 2 are expected.")
    errors = [scores[strength] if lower_is_better else -scores[strength] for strength in sorted(scores)]
    return errors[0] < errors[-1] and all(before <= after for before, after in pairwise(errors))
