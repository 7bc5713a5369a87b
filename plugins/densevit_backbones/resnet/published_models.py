"""Published ResNets, with torchvision's top-1 accuracies."""

from densevit.interfaces import PublishedModel

TORCHVISION = {
    name: PublishedModel(
        "backbone", parameters, {"top-1, ImageNet": score}, f"backbone.name=resnet backbone.depth={options}"
    )
    for name, parameters, score, options in (
        ("torchvision:resnet18/IMAGENET1K_V1", 11_176_512, 0.69758, "18"),
        ("torchvision:resnet34/IMAGENET1K_V1", 21_284_672, 0.73314, "34"),
        ("torchvision:resnet50/IMAGENET1K_V1", 23_508_032, 0.7613, "50"),
        ("torchvision:resnet50/IMAGENET1K_V2", 23_508_032, 0.80858, "50"),
        ("torchvision:resnet101/IMAGENET1K_V1", 42_500_160, 0.77374, "101"),
        ("torchvision:resnet101/IMAGENET1K_V2", 42_500_160, 0.81886, "101"),
        ("torchvision:resnet152/IMAGENET1K_V1", 58_143_808, 0.78312, "152"),
        ("torchvision:resnet152/IMAGENET1K_V2", 58_143_808, 0.82284, "152"),
        (
            "torchvision:resnext50_32x4d/IMAGENET1K_V1",
            22_979_904,
            0.77618,
            "50 backbone.groups=32 backbone.width_per_group=4",
        ),
        (
            "torchvision:resnext50_32x4d/IMAGENET1K_V2",
            22_979_904,
            0.81198,
            "50 backbone.groups=32 backbone.width_per_group=4",
        ),
        (
            "torchvision:resnext101_32x8d/IMAGENET1K_V1",
            86_742_336,
            0.79312,
            "101 backbone.groups=32 backbone.width_per_group=8",
        ),
        (
            "torchvision:resnext101_32x8d/IMAGENET1K_V2",
            86_742_336,
            0.82834,
            "101 backbone.groups=32 backbone.width_per_group=8",
        ),
        (
            "torchvision:resnext101_64x4d/IMAGENET1K_V1",
            81_406_272,
            0.83246,
            "101 backbone.groups=64 backbone.width_per_group=4",
        ),
        ("torchvision:wide_resnet50_2/IMAGENET1K_V1", 66_834_240, 0.78468, "50 backbone.width_per_group=128"),
        ("torchvision:wide_resnet50_2/IMAGENET1K_V2", 66_834_240, 0.81602, "50 backbone.width_per_group=128"),
        ("torchvision:wide_resnet101_2/IMAGENET1K_V1", 124_837_696, 0.78848, "101 backbone.width_per_group=128"),
        ("torchvision:wide_resnet101_2/IMAGENET1K_V2", 124_837_696, 0.8251, "101 backbone.width_per_group=128"),
    )
}
TRANSFORMERS = {
    name: PublishedModel("backbone", parameters, {}, f"backbone.name=resnet backbone.depth={options}")
    for name, parameters, options in (
        ("hf:microsoft/resnet-18", 11_176_512, "18"),
        ("hf:microsoft/resnet-34", 21_284_672, "34"),
        ("hf:microsoft/resnet-50", 23_508_032, "50"),
        ("hf:microsoft/resnet-101", 42_500_160, "101"),
        ("hf:microsoft/resnet-152", 58_143_808, "152"),
    )
}
