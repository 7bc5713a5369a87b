"""DETR's published models (Carion et al. 2020, tables 1 and 5; the README of facebookresearch/detr)."""

from densevit.interfaces import PublishedModel

MODELS = {
    name: PublishedModel("detection", parameters, {"box AP, COCO": score}, recipe)
    for name, parameters, score, recipe in (
        ("hf:facebook/detr-resnet-50", 41_521_941, 0.42, "coco/detr_r50"),
        ("hf:facebook/detr-resnet-50-dc5", 41_521_941, 0.433, "coco/detr_r50 backbone.dilation=true"),
        ("hf:facebook/detr-resnet-101", 60_461_845, 0.435, "coco/detr_r50 backbone.depth=101"),
        (
            "hf:facebook/detr-resnet-101-dc5",
            60_461_845,
            0.449,
            "coco/detr_r50 backbone.depth=101 backbone.dilation=true",
        ),
    )
}
