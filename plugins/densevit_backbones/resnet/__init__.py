"""ResNet (He et al. 2016), ResNeXt (Xie et al. 2017) and wide ResNet."""

from densevit_backbones.resnet.backbone import ResNet

__all__ = ["ResNet"]
