"""RF-DETR's published models (the README of roboflow/rf-detr)."""

from densevit.interfaces import PublishedModel

_L = "heads.detection.transformer.decoder_layers=5 heads.detection.num_queries=200"
_XL = "heads.detection.transformer.decoder_layers=6 heads.detection.num_queries=300"
MODELS = {
    **{
        name: PublishedModel("detection", parameters, {"box AP, COCO": score}, recipe)
        for name, parameters, score, recipe in (
            ("hf:Roboflow/rf-detr-nano", 30_426_952, 0.484, "coco/rf_detr_nano"),
            ("hf:Roboflow/rf-detr-small", 32_070_824, 0.53, "coco/rf_detr_small"),
            ("hf:Roboflow/rf-detr-medium", 33_647_112, 0.547, "coco/rf_detr_medium"),
            ("hf:Roboflow/rf-detr-large", 33_892_872, 0.565, "coco/rf_detr_large"),
        )
    },
    **{
        name: PublishedModel("detection", parameters, {"mask AP, COCO": score}, recipe)
        for name, parameters, score, recipe in (
            (
                "hf:Roboflow/rf-detr-seg-nano",
                33_537_129,
                0.403,
                "start/rf_detr_masks backbone.image_size=312 data.image_size=312",
            ),
            ("hf:Roboflow/rf-detr-seg-small", 33_670_761, 0.431, "start/rf_detr_masks"),
            (
                "hf:Roboflow/rf-detr-seg-medium",
                35_653_913,
                0.453,
                f"start/rf_detr_masks backbone.image_size=432 data.image_size=432 {_L}",
            ),
            (
                "hf:Roboflow/rf-detr-seg-large",
                35_833_625,
                0.471,
                f"start/rf_detr_masks backbone.image_size=504 data.image_size=504 {_L}",
            ),
            (
                "hf:Roboflow/rf-detr-seg-xlarge",
                38_073_289,
                0.488,
                f"start/rf_detr_masks backbone.image_size=624 data.image_size=624 {_XL}",
            ),
            (
                "hf:Roboflow/rf-detr-seg-2xlarge",
                38_607_817,
                0.499,
                f"start/rf_detr_masks backbone.image_size=768 data.image_size=768 {_XL}",
            ),
        )
    },
}
# By the name of the file that the package rfdetr 1.9 downloads.
DIGESTS = {
    "rf-detr-nano.pth": "fb6504cce7fbdc783f7a46991f07639f",
    "rf-detr-small.pth": "fb37061c1af7bace359c91b723a8d5c1",
    "rf-detr-medium.pth": "7223f764a87b863f02eb8d52bf0ce2ee",
    "rf-detr-large-2026.pth": "5cb72153541cbcb9aa6efa26222acc75",
    "rf-detr-seg-nano.pt": "9995497791d0ff1664a1d9ddee9cfd20",
    "rf-detr-seg-small.pt": "0a2a3006381d0c42853907e700eadd08",
    "rf-detr-seg-medium.pt": "a49af1562c3719227ad43d0ca53b4c7a",
    "rf-detr-seg-large.pt": "275f7b094909544ed2841c94a677d07e",
    "rf-detr-seg-xlarge.pt": "3693b35d0eea86ebb3e0444f4a611fba",
    "rf-detr-seg-xxlarge.pt": "040bc3412af840fa8a47e0ff69b552ba",
}
