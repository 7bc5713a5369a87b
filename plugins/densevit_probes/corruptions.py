"""Corruptions of images for robustness, with the parameters of ImageNet-C (Hendrycks & Dietterich 2019, appendix B)."""

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image

from densevit.errors import ConfigError
from densevit.interfaces import Batch

SEVERITIES = (1, 3, 5)  # the three strengths, of ImageNet-C's five


def corrupted(batch: Batch, corruption: str, severity: int, seed: int = 0) -> Batch:
    """A batch of RGB images with one of `CORRUPTIONS`; padding and targets stay as they are.

    Noise depends on the seed and the image's id, not on the batch. severity: 1 to 5, as in ImageNet-C, whose parameters
    are for images of 224 x 224 pixels. Raises ConfigError for other names and for images that are not RGB in uint8.
    """
    images = batch["images"].clone()
    if corruption not in CORRUPTIONS or severity not in range(1, 6):
        raise ConfigError(
            f"the corruption is {corruption!r} of severity {severity}; {', '.join(CORRUPTIONS)} of severity 1 to 5 are "
            "expected."
        )
    if images.dtype != torch.uint8 or images.shape[1] != 3:
        raise ConfigError(
            f"the images have {images.shape[1]} channels in {images.dtype}; corruptions are defined for RGB in uint8. "
            "Fix: leave robustness out for these data."
        )
    for image, target in zip(images, batch["targets"], strict=True):
        inside = image[:, : int(target["size"][0]), : int(target["size"][1])]
        rng = np.random.default_rng([seed, *str(target["image_id"]).encode()])
        pixels = inside.permute(1, 2, 0).contiguous().cpu().numpy().astype(np.float32)
        changed = np.round(CORRUPTIONS[corruption](pixels, severity, rng)).clip(0, 255).astype(np.uint8)
        inside.copy_(torch.from_numpy(changed).permute(2, 0, 1))
    return {**batch, "images": images}


def gaussian_noise(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise to each value."""
    return x + 255 * (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1] * rng.standard_normal(x.shape, np.float32)


def gaussian_blur(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian of 1 to 6 pixels, cut off at four deviations."""
    sigma = (1, 2, 3, 4, 6)[severity - 1]
    return cv2.GaussianBlur(x, (8 * sigma + 1, 8 * sigma + 1), sigma, borderType=cv2.BORDER_REPLICATE)


def brightness(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Adds to the value of HSV."""
    hsv = cv2.cvtColor(x / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.minimum(hsv[..., 2] + 0.1 * severity, 1)
    return 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def contrast(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Moves values to the mean of their channel."""
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1] + mean


def pixelate(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Reduces the image, and enlarges it again, both by Pillow's box filter."""
    scale, (height, width) = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1], x.shape[:2]
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    small = Image.fromarray(x.astype(np.uint8)).resize(size, Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Compresses the image as JPEG."""
    quality = (25, 18, 15, 10, 7)[severity - 1]
    return simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(x.astype(np.uint8), quality, colorsubsampling="420"))


CORRUPTIONS = {
    function.__name__: function
    for function in (gaussian_noise, gaussian_blur, brightness, contrast, pixelate, jpeg_compression)
}
