"""D-FINE's published models (the README of Peterande/D-FINE)."""

from densevit.interfaces import PublishedModel

MODELS = {
    **{
        name: PublishedModel("detection", parameters, {"box AP, COCO": score}, recipe)
        for name, parameters, score, recipe in (
            ("hf:ustc-community/dfine-nano-coco", 3_782_563, 0.428, "coco/dfine_n"),
            ("hf:ustc-community/dfine-small-coco", 10_321_619, 0.485, "coco/dfine_s"),
            ("hf:ustc-community/dfine-medium-coco", 19_589_806, 0.523, "coco/dfine_m"),
            ("hf:ustc-community/dfine-large-coco", 31_289_590, 0.54, "coco/dfine_l"),
            ("hf:ustc-community/dfine-xlarge-coco", 62_715_222, 0.558, "coco/dfine_x"),
            ("hf:ustc-community/dfine-small-obj2coco", 10_321_619, 0.507, "coco/dfine_s"),
            ("hf:ustc-community/dfine-medium-obj2coco", 19_589_806, 0.551, "coco/dfine_m"),
            ("hf:ustc-community/dfine-large-obj2coco-e25", 31_289_590, 0.573, "coco/dfine_l"),
            ("hf:ustc-community/dfine-xlarge-obj2coco", 62_715_222, 0.593, "coco/dfine_x"),
        )
    },
    **{
        name: PublishedModel("detection", parameters, {"box AP, Objects365": score}, recipe)
        for name, parameters, score, recipe in (
            ("hf:ustc-community/dfine-small-obj365", 10_688_843, 0.31, "coco/dfine_s"),
            ("hf:ustc-community/dfine-medium-obj365", 20_030_532, 0.386, "coco/dfine_m"),
            ("hf:ustc-community/dfine-large-obj365", 31_877_320, 0.406, "coco/dfine_l"),
            ("hf:ustc-community/dfine-xlarge-obj365", 63_302_952, 0.495, "coco/dfine_x"),
        )
    },
}
