"""Mask2Former's published models by layout (MODEL_ZOO.md of facebookresearch/Mask2Former)."""

from densevit.interfaces import PublishedModel

_SWIN = "backbone.name=swin backbone.variant=tiny backbone.weights=timm:swin_tiny_patch4_window7_224.ms_in1k"
MODELS = {
    "transformers-mask2former": {
        **{
            name: PublishedModel("panoptic", parameters, {"PQ, COCO": score}, recipe)
            for name, parameters, score, recipe in (
                (
                    "hf:facebook/mask2former-swin-tiny-coco-panoptic",
                    47_435_264,
                    0.532,
                    f"coco/mask2former_r50_panoptic {_SWIN} backbone.drop_path=0.3",
                ),
                (
                    "hf:facebook/mask2former-swin-large-coco-panoptic",
                    215_535_610,
                    0.578,
                    "coco/mask2former_swin_large_panoptic",
                ),
            )
        },
        "hf:facebook/mask2former-swin-tiny-coco-instance": PublishedModel(
            "detection", 47_421_643, {"mask AP, COCO": 0.45}, f"coco/mask2former_r50 {_SWIN} backbone.drop_path=0.3"
        ),
        **{
            name: PublishedModel(
                "segmentation", parameters, {"mIoU, ADE20K": score, "mIoU, ADE20K, scales and flips": flipped}, recipe
            )
            for name, parameters, score, flipped, recipe in (
                (
                    "hf:facebook/mask2former-swin-tiny-ade-semantic",
                    47_439_633,
                    0.477,
                    0.496,
                    "ade20k/mask2former_swin_tiny",
                ),
                (
                    "hf:facebook/mask2former-swin-large-ade-semantic",
                    215_488_779,
                    0.561,
                    0.573,
                    "ade20k/mask2former_swin_large",
                ),
            )
        },
    },
    "mask2former-resnet": {
        "mask2former_r50_coco_panoptic.pth": PublishedModel(
            "panoptic", 43_983_878, {"PQ, COCO": 0.519}, "coco/mask2former_r50_panoptic"
        ),
        "mask2former_r50_coco_instance.pth": PublishedModel(
            "detection", 43_970_257, {"mask AP, COCO": 0.437}, "coco/mask2former_r50"
        ),
    },
}
