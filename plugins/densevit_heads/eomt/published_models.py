"""EoMT's published models (model_zoo/ of tue-mps/eomt)."""

from densevit.interfaces import PublishedModel

EOMT = {
    **{
        name: PublishedModel("panoptic", parameters, {"PQ, COCO": score}, recipe)
        for name, parameters, score, recipe in (
            (
                "hf:tue-mps/coco_panoptic_eomt_small_640_2x",
                23_975_942,
                0.467,
                "coco/eomt_base_panoptic backbone.variant=small",
            ),
            ("hf:tue-mps/coco_panoptic_eomt_base_640_2x", 93_663_110, 0.516, "coco/eomt_base_panoptic"),
            ("hf:tue-mps/coco_panoptic_eomt_large_640", 316_695_686, 0.56, "coco/eomt_large_panoptic"),
        )
    },
    "hf:tue-mps/coco_instance_eomt_large_640": PublishedModel(
        "detection", 316_641_361, {"mask AP, COCO": 0.452}, "coco/eomt_large_instance"
    ),
    "hf:tue-mps/ade20k_semantic_eomt_large_512": PublishedModel(
        "segmentation", 316_020_887, {"mIoU, ADE20K": 0.584}, "ade20k/eomt_large"
    ),
}
DIFFERENCES = {
    "coco_panoptic_eomt_large_640_dinov3": PublishedModel(
        "panoptic", 315_057_286, {"PQ, COCO": 0.568}, "coco/eomt_large_dinov3_panoptic"
    )
}
