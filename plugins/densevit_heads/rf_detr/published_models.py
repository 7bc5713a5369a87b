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
