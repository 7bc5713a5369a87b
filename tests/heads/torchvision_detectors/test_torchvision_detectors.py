"""Faster R-CNN and FCOS as heads: levels, normalisers, and exported outputs."""

import torch

from densevit.interfaces import Class

CLASSES = [Class(str(i), i, (0, 0, 0)) for i in range(3)]


def test_anchors_have_the_strides_of_the_levels_at_any_size():
    """torchvision's have 96 // 2 = 48 at stride 64. In float32 also if the model is cast."""
    from torchvision.models.detection.image_list import ImageList

    from densevit_heads.torchvision_detectors.levels import StrideAnchors

    anchors = StrideAnchors((32, 64), 2.0, (1.0,)).half()
    maps = [torch.zeros(1, 8, 3, 4, dtype=torch.bfloat16), torch.zeros(1, 8, 2, 2, dtype=torch.bfloat16)]
    found = anchors(ImageList(torch.zeros(1, 3, 96, 128), [(96, 128)]), maps)
    centres = [
        [x * stride, y * stride] for stride, h, w in ((32, 3, 4), (64, 2, 2)) for y in range(h) for x in range(w)
    ]
    assert len(found) == 1 and found[0].dtype == torch.float32
    assert ((found[0][:, :2] + found[0][:, 2:]) / 2).tolist() == centres
    assert (found[0][:, 2:] - found[0][:, :2]).tolist() == [[64.0, 64.0]] * 12 + [[128.0, 128.0]] * 4
