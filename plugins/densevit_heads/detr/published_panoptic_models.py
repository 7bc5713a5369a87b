"""Published models of DETR with a mask head (the README of facebookresearch/detr)."""

from densevit.interfaces import PublishedModel

MODELS = {
    "hf:facebook/detr-resnet-50-panoptic": PublishedModel(
        "panoptic", 42_869_219, {"PQ, COCO": 0.434, "mask AP, COCO": 0.311}, "coco/detr_panoptic_r50"
    )
}
