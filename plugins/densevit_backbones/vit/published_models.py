"""Published ViTs, with the top-1 accuracies of torchvision and of the README of facebookresearch/deit."""

from densevit.interfaces import PublishedModel

_DINOV2_OPTIONS = "backbone.patch_size=14 backbone.image_size=518 backbone.layer_scale=1e-5"
_DINOV3_OPTIONS = "backbone.positions=rotary backbone.registers=4 backbone.key_bias=false backbone.layer_scale=1e-5"
TORCHVISION = {
    name: PublishedModel(
        "backbone", parameters, {"top-1, ImageNet": score}, f"backbone.name=vit backbone.variant={options}"
    )
    for name, parameters, score, options in (
        ("torchvision:vit_b_16/IMAGENET1K_V1", 85_797_888, 0.81072, "base"),
        ("torchvision:vit_b_16/IMAGENET1K_SWAG_E2E_V1", 86_089_728, 0.85304, "base backbone.image_size=384"),
        ("torchvision:vit_b_16/IMAGENET1K_SWAG_LINEAR_V1", 85_797_888, 0.81886, "base"),
        ("torchvision:vit_b_32/IMAGENET1K_V1", 87_454_464, 0.75912, "base backbone.patch_size=32"),
        ("torchvision:vit_l_16/IMAGENET1K_V1", 303_300_608, 0.79662, "large"),
        ("torchvision:vit_l_16/IMAGENET1K_SWAG_E2E_V1", 304_148_480, 0.88064, "large backbone.image_size=512"),
        ("torchvision:vit_l_16/IMAGENET1K_SWAG_LINEAR_V1", 303_300_608, 0.85146, "large"),
        ("torchvision:vit_l_32/IMAGENET1K_V1", 305_509_376, 0.76972, "large backbone.patch_size=32"),
        (
            "torchvision:vit_h_14/IMAGENET1K_SWAG_E2E_V1",
            632_188_160,
            0.88552,
            "huge backbone.patch_size=14 backbone.image_size=518",
        ),
        ("torchvision:vit_h_14/IMAGENET1K_SWAG_LINEAR_V1", 630_763_520, 0.85708, "huge backbone.patch_size=14"),
    )
}
GOOGLE = {
    name: PublishedModel("backbone", parameters, {}, f"backbone.name=vit backbone.variant={options}")
    for name, parameters, options in (
        ("hf:google/vit-base-patch16-224", 85_797_888, "base"),
        ("hf:google/vit-base-patch16-384", 86_089_728, "base backbone.image_size=384"),
        ("hf:google/vit-base-patch16-224-in21k", 85_797_888, "base"),
        ("hf:google/vit-base-patch32-384", 87_527_424, "base backbone.patch_size=32 backbone.image_size=384"),
        ("hf:google/vit-base-patch32-224-in21k", 87_454_464, "base backbone.patch_size=32"),
        ("hf:google/vit-large-patch16-224", 303_300_608, "large"),
        ("hf:google/vit-large-patch16-384", 303_689_728, "large backbone.image_size=384"),
        ("hf:google/vit-large-patch16-224-in21k", 303_300_608, "large"),
        ("hf:google/vit-large-patch32-384", 305_606_656, "large backbone.patch_size=32 backbone.image_size=384"),
        ("hf:google/vit-large-patch32-224-in21k", 305_509_376, "large backbone.patch_size=32"),
        ("hf:google/vit-huge-patch14-224-in21k", 630_763_520, "huge backbone.patch_size=14"),
    )
}
DEIT = {
    name: PublishedModel(
        "backbone", parameters, {"top-1, ImageNet": score}, f"backbone.name=vit backbone.variant={options}"
    )
    for name, parameters, score, options in (
        ("hf:facebook/deit-tiny-patch16-224", 5_524_224, 0.722, "tiny"),
        ("hf:facebook/deit-tiny-distilled-patch16-224", 5_524_416, 0.745, "tiny backbone.distillation_token=true"),
        ("hf:facebook/deit-small-patch16-224", 21_665_280, 0.799, "small"),
        ("hf:facebook/deit-small-distilled-patch16-224", 21_665_664, 0.812, "small backbone.distillation_token=true"),
        ("hf:facebook/deit-base-patch16-224", 85_797_888, 0.818, "base"),
        ("hf:facebook/deit-base-distilled-patch16-224", 85_798_656, 0.834, "base backbone.distillation_token=true"),
        ("hf:facebook/deit-base-patch16-384", 86_089_728, 0.829, "base backbone.image_size=384"),
        (
            "hf:facebook/deit-base-distilled-patch16-384",
            86_090_496,
            0.852,
            "base backbone.image_size=384 backbone.distillation_token=true",
        ),
    )
}
MAE = {
    name: PublishedModel("backbone", parameters, {}, f"backbone.name=vit backbone.variant={options}")
    for name, parameters, options in (
        ("hf:facebook/vit-mae-base", 85_797_888, "base"),
        ("hf:facebook/vit-mae-large", 303_300_608, "large"),
        ("hf:facebook/vit-mae-huge", 630_763_520, "huge backbone.patch_size=14"),
    )
}
DINOV2 = {
    name: PublishedModel("backbone", parameters, {}, f"backbone.name=vit backbone.variant={options}")
    for name, parameters, options in (
        ("hf:facebook/dinov2-small", 22_055_808, f"small {_DINOV2_OPTIONS}"),
        ("hf:facebook/dinov2-base", 86_578_944, f"base {_DINOV2_OPTIONS}"),
        ("hf:facebook/dinov2-large", 304_366_592, f"large {_DINOV2_OPTIONS}"),
        ("hf:facebook/dinov2-giant", 1_136_477_696, f"giant {_DINOV2_OPTIONS} backbone.swiglu=true"),
        ("hf:facebook/dinov2-with-registers-small", 22_057_344, f"small {_DINOV2_OPTIONS} backbone.registers=4"),
        ("hf:facebook/dinov2-with-registers-base", 86_582_016, f"base {_DINOV2_OPTIONS} backbone.registers=4"),
        ("hf:facebook/dinov2-with-registers-large", 304_370_688, f"large {_DINOV2_OPTIONS} backbone.registers=4"),
        (
            "hf:facebook/dinov2-with-registers-giant",
            1_136_483_840,
            f"giant {_DINOV2_OPTIONS} backbone.registers=4 backbone.swiglu=true",
        ),
    )
}
DINOV3 = {
    name: PublishedModel("backbone", parameters, {}, f"backbone.name=vit backbone.variant={options}")
    for name, parameters, options in (
        ("hf:facebook/dinov3-vits16-pretrain-lvd1689m", 21_600_768, f"small {_DINOV3_OPTIONS}"),
        ("hf:facebook/dinov3-vitb16-pretrain-lvd1689m", 85_668_864, f"base {_DINOV3_OPTIONS}"),
        ("hf:facebook/dinov3-vitl16-pretrain-lvd1689m", 303_153_152, f"large {_DINOV3_OPTIONS}"),
        ("hf:facebook/dinov3-vitl16-pretrain-sat493m", 303_153_152, f"large {_DINOV3_OPTIONS}"),
    )
}
