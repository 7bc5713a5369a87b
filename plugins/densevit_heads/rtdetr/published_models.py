"""Published models of RT-DETR and RT-DETRv2 (the README of lyuwenyu/RT-DETR)."""

from densevit.interfaces import PublishedModel

_R101 = (
    "backbone.depth=101 heads.detection.encoder.width=384 heads.detection.encoder.feedforward=2048 "
    "optim.backbone_lr=1e-6"
)
RTDETR = {
    name: PublishedModel("detection", parameters, {"box AP, COCO": score}, recipe)
    for name, parameters, score, recipe in (
        ("hf:PekingU/rtdetr_r18vd", 20_184_208, 0.465, "coco/rtdetr_r18"),
        (
            "hf:PekingU/rtdetr_r34vd",
            31_441_412,
            0.489,
            "coco/rtdetr_r18 backbone.depth=34 heads.detection.transformer.decoder_layers=4",
        ),
        ("hf:PekingU/rtdetr_r50vd", 42_891_116, 0.531, "coco/rtdetr_r50"),
        ("hf:PekingU/rtdetr_r101vd", 76_556_012, 0.543, f"coco/rtdetr_r50 {_R101}"),
    )
}
RTDETRV2 = {
    name: PublishedModel("detection", parameters, {"box AP, COCO": score}, recipe)
    for name, parameters, score, recipe in (
        ("hf:PekingU/rtdetr_v2_r18vd", 20_184_208, 0.481, "coco/rtdetrv2_r18"),
        ("hf:PekingU/rtdetr_v2_r34vd", 31_441_412, 0.499, "coco/rtdetrv2_r34"),
        ("hf:PekingU/rtdetr_v2_r50vd", 42_891_116, 0.534, "coco/rtdetrv2_r50"),
        ("hf:PekingU/rtdetr_v2_r101vd", 76_556_012, 0.543, f"coco/rtdetrv2_r50 {_R101}"),
    )
}
