"""Deformable DETR's published models, with the scores as released (the README of fundamentalvision/Deformable-DETR)."""

from densevit.interfaces import PublishedModel

MODELS = {
    name: PublishedModel("detection", parameters, {"box AP, COCO": score}, recipe)
    for name, parameters, score, recipe in (
        ("hf:SenseTime/deformable-detr", 40_066_838, 0.445, "coco/deformable_detr_r50"),
        (
            "hf:SenseTime/deformable-detr-with-box-refine",
            40_832_698,
            0.462,
            "coco/deformable_detr_r50 heads.detection.box_refinement=true",
        ),
        (
            "hf:SenseTime/deformable-detr-with-box-refine-two-stage",
            41_161_740,
            0.469,
            "coco/deformable_detr_r50_two_stage",
        ),
    )
}
