"""UPerNet's published models by layout, with the scores of mmsegmentation's own runs."""

from densevit.interfaces import PublishedModel

MODELS = {
    "transformers-upernet": {
        name: PublishedModel("segmentation", parameters, {"mIoU, ADE20K": score}, recipe)
        for name, parameters, score, recipe in (
            ("hf:openmmlab/upernet-swin-tiny", 59_941_862, 0.4441, "ade20k/upernet_swin_tiny"),
            ("hf:openmmlab/upernet-swin-small", 81_259_766, 0.4772, "ade20k/upernet_swin_tiny backbone.variant=small"),
            ("hf:openmmlab/upernet-swin-base", 121_279_716, 0.4799, "ade20k/upernet_swin_tiny backbone.variant=base"),
        )
    },
    "transformers-upernet-convnext": {
        name: PublishedModel(
            "segmentation", parameters, {"mIoU, ADE20K": score, "mIoU, ADE20K, scales and flips": flipped}, recipe
        )
        for name, parameters, score, flipped, recipe in (
            ("hf:openmmlab/upernet-convnext-tiny", 60_242_636, 0.4611, 0.4662, "ade20k/upernet_convnext_tiny"),
            ("hf:openmmlab/upernet-convnext-small", 81_877_196, 0.4856, 0.4902, "ade20k/upernet_convnext_small"),
            (
                "hf:openmmlab/upernet-convnext-base",
                122_102_956,
                0.4871,
                0.4954,
                "ade20k/upernet_convnext_small backbone.model=convnext_base backbone.drop_path=0.4",
            ),
        )
    },
}
