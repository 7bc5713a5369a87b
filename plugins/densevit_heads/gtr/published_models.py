"""GTR's published models (the README of Intellindust-AI-Lab/GTR)."""

from densevit.interfaces import PublishedModel

_WIDTH_256 = "heads.detection.neck.width=256 heads.detection.transformer.width=256"
GTR = {
    **{
        name: PublishedModel("detection", parameters, {"box AP, COCO": score}, recipe)
        for name, parameters, score, recipe in (
            ("hf:Phoenix8125/GTR/det/gtr_s_coco.pth", 12_028_492, 0.536, "coco/gtr_s"),
            ("hf:Phoenix8125/GTR/det/gtr_m_coco.pth", 22_606_964, 0.573, "coco/gtr_m"),
            ("hf:Phoenix8125/GTR/det/gtr_l_coco.pth", 37_126_212, 0.589, "coco/gtr_l"),
            ("hf:Phoenix8125/GTR/det/gtr_x_coco.pth", 46_366_788, 0.594, "coco/gtr_x"),
        )
    },
    **{
        name: PublishedModel("detection", parameters, {}, recipe)
        for name, parameters, recipe in (
            ("hf:Phoenix8125/GTR/obj365/gtr_s_obj365.pth", 12_469_790, "coco/gtr_s"),
            ("hf:Phoenix8125/GTR/obj365/gtr_m_obj365.pth", 23_194_694, "coco/gtr_m"),
            ("hf:Phoenix8125/GTR/obj365/gtr_l_obj365.pth", 37_713_942, "coco/gtr_l"),
            ("hf:Phoenix8125/GTR/obj365/gtr_x_obj365.pth", 46_954_518, "coco/gtr_x"),
        )
    },
    **{
        name: PublishedModel("detection", parameters, {"mask AP, COCO": score}, recipe)
        for name, parameters, score, recipe in (
            ("hf:Phoenix8125/GTR/seg/gtrseg_s_coco.pth", 12_556_301, 0.45, "start/gtr_masks"),
            (
                "hf:Phoenix8125/GTR/seg/gtrseg_m_coco.pth",
                23_540_085,
                0.477,
                f"start/gtr_masks backbone.variant=m {_WIDTH_256} heads.detection.transformer.feedforward=1024",
            ),
            (
                "hf:Phoenix8125/GTR/seg/gtrseg_l_coco.pth",
                38_059_333,
                0.495,
                f"start/gtr_masks backbone.variant=l {_WIDTH_256} heads.detection.transformer.feedforward=1024",
            ),
            (
                "hf:Phoenix8125/GTR/seg/gtrseg_x_coco.pth",
                47_299_909,
                0.498,
                f"start/gtr_masks backbone.variant=x {_WIDTH_256} heads.detection.transformer.feedforward=2048",
            ),
        )
    },
}
SEMANTIC = {
    name: PublishedModel("segmentation", parameters, {"mIoU, Cityscapes": score})
    for name, parameters, score in (
        ("hf:Phoenix8125/GTR/semseg/gtrsemseg_s_cityscapes.pth", 9_261_835, 0.815),
        ("hf:Phoenix8125/GTR/semseg/gtrsemseg_m_cityscapes.pth", 17_199_027, 0.83),
        ("hf:Phoenix8125/GTR/semseg/gtrsemseg_l_cityscapes.pth", 31_718_275, 0.832),
        ("hf:Phoenix8125/GTR/semseg/gtrsemseg_x_cityscapes.pth", 38_857_603, 0.836),
    )
}
