"""DETR's published models (Carion et al. 2020, tables 1 and 5; the README of facebookresearch/detr)."""

from densevit.interfaces import PublishedModel

_R101 = "coco/detr_r50 backbone.depth=101 backbone.weights=torchvision:resnet101/IMAGENET1K_V1"
_DC5 = "backbone.dilation=true data.batch_size=1 trainer.accumulate=64"
MODELS = {
    name: PublishedModel("detection", parameters, {"box AP, COCO": score}, recipe)
    for name, parameters, score, recipe in (
        ("hf:facebook/detr-resnet-50", 41_521_941, 0.42, "coco/detr_r50"),
        ("hf:facebook/detr-resnet-50-dc5", 41_521_941, 0.433, f"coco/detr_r50 {_DC5}"),
        ("hf:facebook/detr-resnet-101", 60_461_845, 0.435, _R101),
        (
            "hf:facebook/detr-resnet-101-dc5",
            60_461_845,
            0.449,
            f"{_R101} {_DC5}",
        ),
    )
}
