"""The self-test of probes: the scores of a probe that measures features must fall as noise on the features grows."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from densevit.errors import ConfigError
from densevit.interfaces import Batch

Encode = Callable[[Batch], list[Tensor]]
"""The backbone's feature maps of a batch, (B, C_i, h_i, w_i) each."""


def noised(encode: Encode, strength: float, seed: int = 0) -> Encode:
    """`encode` with Gaussian noise on its feature maps, `strength` times the standard deviation of each channel.

    The deviation is that over the cells of an image. The noise depends on the seed and the image's pixels: it is the
    same whatever the batch, and differs between two views of an image, which equal noise would make alike.
    """

    def with_noise(batch: Batch) -> list[Tensor]:
        rngs = [np.random.default_rng([seed, crc32(image.cpu().numpy().tobytes())]) for image in batch["images"]]
        maps = []
        for x in encode(batch):
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
