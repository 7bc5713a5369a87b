"""mmsegmentation's models of SETR by layout, with the scores of its own runs."""

from densevit.interfaces import PublishedModel

MODELS = {
    "mmseg-setr": {
        "setr_pup_512x512_160k_b16_ade20k_*.pth": PublishedModel(
            "segmentation",
            320_280_814,
            {"mIoU, ADE20K": 0.4824, "mIoU, ADE20K, scales and flips": 0.4999},
            "ade20k/setr_pup_vit_large",
        ),
        "setr_pup_vit-large_8x1_768x768_80k_cityscapes_*.pth": PublishedModel(
            "segmentation",
            321_423_199,
            {"mIoU, Cityscapes": 0.7921, "mIoU, Cityscapes, scales and flips": 0.8102},
            "cityscapes/setr_pup_vit_large",
        ),
    },
    "mmseg-setr-naive": {
        "setr_naive_vit-large_8x1_768x768_80k_cityscapes_*.pth": PublishedModel(
            "segmentation",
            306_535_500,
            {"mIoU, Cityscapes": 0.781, "mIoU, Cityscapes, scales and flips": 0.8022},
            "cityscapes/setr_naive_vit_large",
        ),
    },
    "mmseg-setr-naive-ade20k": {
        "setr_naive_512x512_160k_b16_ade20k_*.pth": PublishedModel(
            "segmentation",
            305_359_448,
            {"mIoU, ADE20K": 0.4828, "mIoU, ADE20K, scales and flips": 0.4956},
            "ade20k/setr_naive_vit_large",
        ),
    },
    "mmseg-setr-mla": {
        "setr_mla_512x512_160k_b16_ade20k_*.pth": PublishedModel(
            "segmentation",
            309_569_262,
            {"mIoU, ADE20K": 0.4754, "mIoU, ADE20K, scales and flips": 0.4937},
            "ade20k/setr_mla_vit_large",
        ),
        "setr_mla_vit-large_8x1_768x768_80k_cityscapes_*.pth": PublishedModel(
            "segmentation",
            310_678_111,
            {"mIoU, Cityscapes": 0.77, "mIoU, Cityscapes, scales and flips": 0.7959},
            "cityscapes/setr_mla_vit_large",
        ),
    },
}
