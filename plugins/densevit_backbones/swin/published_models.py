"""Published Swins by layout; top-1 accuracies of torchvision and of the README of microsoft/Swin-Transformer."""

from densevit.interfaces import PublishedModel

MODELS = {
    "torchvision-swin": {
        name: PublishedModel(
            "backbone", parameters, {"top-1, ImageNet": score}, f"backbone.name=swin backbone.variant={options}"
        )
        for name, parameters, score, options in (
            ("torchvision:swin_t/IMAGENET1K_V1", 27_520_698, 0.81474, "tiny"),
            ("torchvision:swin_s/IMAGENET1K_V1", 48_838_602, 0.83196, "small"),
            ("torchvision:swin_b/IMAGENET1K_V1", 86_745_016, 0.83582, "base"),
        )
    },
    "torchvision-swinv2": {
        name: PublishedModel(
            "backbone", parameters, {"top-1, ImageNet": score}, f"backbone.name=swin backbone.variant={options}"
        )
        for name, parameters, score, options in (
            ("torchvision:swin_v2_t/IMAGENET1K_V1", 27_579_498, 0.82072, "tiny backbone.version=2"),
            ("torchvision:swin_v2_s/IMAGENET1K_V1", 48_960_762, 0.83712, "small backbone.version=2"),
            ("torchvision:swin_v2_b/IMAGENET1K_V1", 86_895_608, 0.84112, "base backbone.version=2"),
        )
    },
    "transformers-swin": {
        **{
            name: PublishedModel(
                "backbone", parameters, {"top-1, ImageNet": score}, f"backbone.name=swin backbone.variant={options}"
            )
            for name, parameters, score, options in (
                ("hf:microsoft/swin-tiny-patch4-window7-224", 27_520_698, 0.812, "tiny"),
                ("hf:microsoft/swin-small-patch4-window7-224", 48_838_602, 0.832, "small"),
                ("hf:microsoft/swin-base-patch4-window7-224", 86_745_016, 0.835, "base"),
                ("hf:microsoft/swin-base-patch4-window12-384", 86_880_376, 0.845, "base backbone.window_size=12"),
                ("hf:microsoft/swin-large-patch4-window7-224", 194_998_164, 0.863, "large"),
                ("hf:microsoft/swin-large-patch4-window12-384", 195_201_204, 0.873, "large backbone.window_size=12"),
            )
        },
        **{
            name: PublishedModel("backbone", parameters, {}, f"backbone.name=swin backbone.variant={options}")
            for name, parameters, options in (
                ("hf:microsoft/swin-base-patch4-window7-224-in22k", 86_745_016, "base"),
                ("hf:microsoft/swin-base-patch4-window12-384-in22k", 86_880_376, "base backbone.window_size=12"),
                ("hf:microsoft/swin-large-patch4-window7-224-in22k", 194_998_164, "large"),
                ("hf:microsoft/swin-large-patch4-window12-384-in22k", 195_201_204, "large backbone.window_size=12"),
            )
        },
    },
    "transformers-swinv2": {
        name: PublishedModel(
            "backbone", parameters, {"top-1, ImageNet": score}, f"backbone.name=swin backbone.variant={options}"
        )
        for name, parameters, score, options in (
            ("hf:microsoft/swinv2-tiny-patch4-window8-256", 27_579_498, 0.818, "tiny backbone.version=2"),
            (
                "hf:microsoft/swinv2-tiny-patch4-window16-256",
                27_579_498,
                0.828,
                "tiny backbone.version=2 backbone.window_size=[16,16,16,8]",
            ),
            ("hf:microsoft/swinv2-small-patch4-window8-256", 48_960_762, 0.837, "small backbone.version=2"),
            (
                "hf:microsoft/swinv2-small-patch4-window16-256",
                48_960_762,
                0.841,
                "small backbone.version=2 backbone.window_size=[16,16,16,8]",
            ),
            ("hf:microsoft/swinv2-base-patch4-window8-256", 86_895_608, 0.842, "base backbone.version=2"),
            (
                "hf:microsoft/swinv2-base-patch4-window16-256",
                86_895_608,
                0.846,
                "base backbone.version=2 backbone.window_size=[16,16,16,8]",
            ),
        )
    },
}
