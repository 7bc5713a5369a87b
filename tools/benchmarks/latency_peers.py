"""Detectors of transformers with random weights, timed by `latency.py`.

The configs repeat the published checkpoints' configs, so that no network is needed.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] = "1"  # assertions inside the models, which ONNX does not have
CLASSES = 80  # of COCO
LABELS: dict[str, Any] = {"num_labels": CLASSES}
LEVELS: dict[str, Any] = {"out_indices": [2, 3, 4]}  # strides 8, 16 and 32


class Detector(nn.Module):
    """Does what densevit's exported graph does: from uint8 images to boxes in pixels and scores of each query."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 3, H, W) uint8. Returns boxes (B, Q, 4) xyxy and scores (B, Q, K)."""
        height, width = images.shape[-2:]
        outputs = self.model(pixel_values=images.float() / 255)
        centre, size = outputs.pred_boxes.split(2, -1)
        boxes = torch.cat([centre - size / 2, centre + size / 2], -1)
        return {"boxes": boxes * boxes.new_tensor([width, height, width, height]), "scores": outputs.logits.sigmoid()}


def rtdetr_r18vd() -> nn.Module:
    """PekingU/rtdetr_r18vd."""
    backbone = transformers.RTDetrResNetConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", **LEVELS
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[128, 256, 512],
        hidden_expansion=0.5,
        decoder_layers=3,
        **LABELS,
    )
    return transformers.RTDetrForObjectDetection(config)


def dfine_small() -> nn.Module:
    """ustc-community/dfine-small-coco."""
    backbone = transformers.HGNetV2Config(
        embedding_size=32,
        hidden_sizes=[128, 256, 512, 1024],
        stem_channels=[3, 16, 16],
        stage_in_channels=[16, 64, 256, 512],
        stage_mid_channels=[16, 32, 64, 128],
        stage_out_channels=[64, 256, 512, 1024],
        stage_num_blocks=[1, 1, 2, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5],
        stage_numb_of_layers=[3, 3, 3, 3],
        use_learnable_affine_block=True,
        **LEVELS,
    )
    config = transformers.DFineConfig(
        backbone_config=backbone,
        encoder_in_channels=[256, 512, 1024],
        hidden_expansion=0.5,
        depth_mult=0.34,
        decoder_layers=3,
        decoder_n_points=[3, 6, 3],
        **LABELS,
    )
    return transformers.DFineForObjectDetection(config)


def deformable_detr() -> nn.Module:
    """SenseTime/deformable-detr."""
    backbone = transformers.ResNetConfig(**LEVELS)
    config = transformers.DeformableDetrConfig(backbone_config=backbone, **LABELS)
    return transformers.DeformableDetrForObjectDetection(config)


PEERS: dict[str, Callable[[], nn.Module]] = {
    "rtdetr_r18vd": rtdetr_r18vd,
    "dfine_small": dfine_small,
    "deformable_detr": deformable_detr,
}
