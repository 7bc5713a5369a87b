"""PMT's published decoders (model_zoo/image/dinov3.md of tue-mps/pmt); parameters with the DINOv3 that they need.

The authors also have decoders for 1280 x 1280, of the same sizes.
"""

from densevit.interfaces import PublishedModel

MODELS = {
    f"hf:tue-mps/{name}_dinov3": PublishedModel(task, parameters, {metric: score}, recipe)
    for name, task, parameters, metric, score, recipe in (
        (
            "coco_panoptic_pmt_small_640",
            "panoptic",
            29_292_806,
            "PQ, COCO",
            0.453,
            "coco/pmt_large_panoptic backbone.variant=small",
        ),
        ("coco_panoptic_pmt_large_640", "panoptic", 357_088_390, "PQ, COCO", 0.561, "coco/pmt_large_panoptic"),
        ("coco_instance_pmt_large_640", "detection", 357_034_065, "mask AP, COCO", 0.454, "coco/pmt_large_instance"),
        ("ade20k_semantic_pmt_large_512", "segmentation", 357_003_415, "mIoU, ADE20K", 0.585, "ade20k/pmt_large"),
    )
}
