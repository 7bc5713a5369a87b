"""Licences of published backbones that several layouts share."""

from dataclasses import replace

from densevit.interfaces import Licences

_GITHUB, _DATE = "https://github.com/", "2026-11-29"
_TIMM = f"{_GITHUB}huggingface/pytorch-image-models/blob/015ac30/README.md"
TRANSFORMERS = Licences("Apache-2.0", source=f"{_GITHUB}huggingface/transformers", date=_DATE)  # of its code only
# timm's README advises to assume ImageNet's terms for the weights that timm trained.
TIMM = Licences("Apache-2.0", source=_TIMM, date=_DATE)
TIMM_FILES = {"timm:*": TIMM, "hf:timm/*": TIMM}
TORCHVISION = Licences("BSD-3-Clause", source=f"{_GITHUB}pytorch/vision/blob/0a12c07/README.md", date=_DATE)
TORCHVISION_FILES = {
    "torchvision:*SWAG*": replace(TORCHVISION, weights="CC-BY-NC-4.0"),
    "torchvision:*": replace(TORCHVISION, data="ImageNet", teacher="none"),
}
DEIT = Licences(
    "Apache-2.0", "Apache-2.0", "ImageNet", source=f"{_GITHUB}facebookresearch/deit/blob/7e160fe/README.md", date=_DATE
)
DEIT_FILES = {"deit_*.pth": DEIT, "deit3_*.pth": DEIT, "hf:facebook/deit-*": DEIT}
SWIN = Licences(
    "MIT",
    data="ImageNet",
    teacher="none",
    source=f"{_GITHUB}microsoft/Swin-Transformer/blob/f82860b/LICENSE",
    date=_DATE,
)
SWIN_FILES = {"swin*_patch4_window*.pth": SWIN, "hf:microsoft/swin*": SWIN}
VIT = Licences(
    "Apache-2.0",
    data="ImageNet",
    teacher="none",
    source=f"{_GITHUB}google-research/vision_transformer/blob/c6de1e5/README.md",
    date=_DATE,
)
MAE = Licences(
    *("CC-BY-NC-4.0", "CC-BY-NC-4.0", "ImageNet", "none"),
    source=f"{_GITHUB}facebookresearch/mae/blob/efb2a80/README.md",
    date=_DATE,
)
DINOV2 = Licences(
    *("Apache-2.0", "Apache-2.0", "LVD-142M", "DINOv2 ViT-g"),
    source=f"{_GITHUB}facebookresearch/dinov2/blob/b8931f7/MODEL_CARD.md",
    date=_DATE,
)
