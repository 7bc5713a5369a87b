"""SegFormer's published models: the scores of mmsegmentation's own runs; ADE20K's B4, B5: Xie et al. 2021, table 1."""

from densevit.interfaces import PublishedModel

MODELS = {
    **{
        name: PublishedModel(
            "segmentation", parameters, {"mIoU, ADE20K": score, "mIoU, ADE20K, scales and flips": flipped}, recipe
        )
        for name, parameters, score, flipped, recipe in (
            ("hf:nvidia/segformer-b0-finetuned-ade-512-512", 3_752_694, 0.3741, 0.3834, "ade20k/segformer_b0"),
            (
                "hf:nvidia/segformer-b1-finetuned-ade-512-512",
                13_715_798,
                0.4097,
                0.4254,
                "ade20k/segformer_b0 backbone.variant=b1",
            ),
            (
                "hf:nvidia/segformer-b2-finetuned-ade-512-512",
                27_461_974,
                0.4558,
                0.4703,
                "ade20k/segformer_b0 backbone.variant=b2 heads.segmentation.width=768",
            ),
            (
                "hf:nvidia/segformer-b3-finetuned-ade-512-512",
                47_337_814,
                0.4782,
                0.4881,
                "ade20k/segformer_b0 backbone.variant=b3 heads.segmentation.width=768",
            ),
            (
                "hf:nvidia/segformer-b4-finetuned-ade-512-512",
                64_108_374,
                0.503,
                0.511,
                "ade20k/segformer_b0 backbone.variant=b4 heads.segmentation.width=768",
            ),
            ("hf:nvidia/segformer-b5-finetuned-ade-640-640", 84_708_694, 0.51, 0.518, "ade20k/segformer_b5"),
        )
    },
    **{
        name: PublishedModel(
            "segmentation",
            parameters,
            {"mIoU, Cityscapes": score, "mIoU, Cityscapes, scales and flips": flipped},
            recipe,
        )
        for name, parameters, score, flipped, recipe in (
            (
                "hf:nvidia/segformer-b0-finetuned-cityscapes-1024-1024",
                3_719_027,
                0.7654,
                0.7822,
                "cityscapes/segformer_b0",
            ),
            (
                "hf:nvidia/segformer-b1-finetuned-cityscapes-1024-1024",
                13_682_131,
                0.7856,
                0.7973,
                "cityscapes/segformer_b0 backbone.variant=b1",
            ),
            (
                "hf:nvidia/segformer-b2-finetuned-cityscapes-1024-1024",
                27_361_235,
                0.8108,
                0.8218,
                "cityscapes/segformer_b0 backbone.variant=b2 heads.segmentation.width=768",
            ),
            (
                "hf:nvidia/segformer-b3-finetuned-cityscapes-1024-1024",
                47_237_075,
                0.8194,
                0.8314,
                "cityscapes/segformer_b0 backbone.variant=b3 heads.segmentation.width=768",
            ),
            (
                "hf:nvidia/segformer-b4-finetuned-cityscapes-1024-1024",
                64_007_635,
                0.8189,
                0.8338,
                "cityscapes/segformer_b0 backbone.variant=b4 heads.segmentation.width=768",
            ),
            (
                "hf:nvidia/segformer-b5-finetuned-cityscapes-1024-1024",
                84_607_955,
                0.8225,
                0.8348,
                "cityscapes/segformer_b0 backbone.variant=b5 heads.segmentation.width=768",
            ),
        )
    },
}
