"""One window is a plain ViT.

tests/checkpoints/layouts compares the models of RF-DETR and LW-DETR with transformers'.
"""

import torch

from densevit_backbones.vit import ViT, WindowedViT


def test_one_window_is_a_plain_vit(randomise):
    """DINOv2's tensors have the same names here and there."""
    options = {"features": (1, 3, 5), "image_size": 64, "registers": 1, "layer_scale": 1.0}
    vit = ViT("nano", **options).eval()
    randomise(vit)
    backbone = WindowedViT("nano", num_windows=1, registers=1, image_size=64, features=(1, 3, 5)).eval()
    backbone.load_state_dict(vit.state_dict())
    images = torch.randn(1, 3, 80, 100)
    for x, y in zip(backbone(images), vit(images), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
