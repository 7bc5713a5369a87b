"""Small models of transformers for masks and maps, with random weights."""

from typing import Any

import torch
from torch import nn

from tests.checkpoints.layouts.models import R18, STAGES, SWIN, randomised
from tests.random_weights import randomise


def mask2former(backbone: str) -> Any:
    import transformers

    kind, sizes = {"swin": (transformers.SwinConfig, SWIN), "resnet": (transformers.ResNetConfig, R18)}[backbone]
    config = transformers.Mask2FormerConfig(
        backbone_config=kind(**sizes, out_features=STAGES), num_labels=5, feature_size=64, mask_feature_size=64,
        hidden_dim=64, encoder_layers=2,
        decoder_layers=4, encoder_feedforward_dim=48, dim_feedforward=40, num_queries=9, num_attention_heads=4,
    )  # fmt: skip
    theirs = transformers.Mask2FormerForUniversalSegmentation(config)
    return randomised(theirs, {"queries_": 12.0, r"sampling_offsets\.bias": 1.5})


TASKS = {  # of EoMT: classes, queries, task, head
    "panoptic": (133, 200, "panoptic", "eomt"),
    "instance": (80, 200, "detection", "eomt_instance"),
    "semantic": (150, 100, "segmentation", "eomt_semantic"),
}


def eomt(version: int, task: str, side: int = 64) -> Any:
    """version: of DINO. side: of the images."""
    import transformers

    small: dict[str, Any] = {
        "hidden_size": 128, "num_hidden_layers": 5, "num_attention_heads": 4, "image_size": side, "num_blocks": 2,
        "num_labels": TASKS[task][0], "num_queries": TASKS[task][1],
        **({"intermediate_size": 512, "layer_norm_eps": 1e-5} if version == 3 else {}),
    }  # fmt: skip
    kinds = (transformers.EomtForUniversalSegmentation, transformers.EomtDinov3ForUniversalSegmentation)
    theirs = kinds[version - 2](kinds[version - 2].config_class(**small))
    theirs.attn_mask_probs.zero_()
    return randomised(theirs, {"token|position": 11.0, r"\.weight$": 1.0}, 0.3)


def segformer(kind: str = "SegformerForSemanticSegmentation") -> Any:
    import transformers

    theirs = getattr(transformers, kind)(transformers.SegformerConfig(num_labels=5))
    return randomised(theirs, {r"\.weight$": 1.0})


def upernet(backbone: str) -> Any:
    import transformers

    own = (
        transformers.SwinConfig(**SWIN, out_features=STAGES)
        if backbone == "swin"
        else transformers.ConvNextConfig(
            hidden_sizes=[96, 192, 384, 768], depths=[3, 3, 9, 3], layer_scale_init_value=1.0, out_features=STAGES
        )
    )
    config = transformers.UperNetConfig(backbone_config=own, hidden_size=32, auxiliary_channels=16, num_labels=5)
    return randomised(transformers.UperNetForSemanticSegmentation(config), {"relative_position_bias": 3.0})


def dpt(kind: str, hybrid: bool, **options: Any) -> Any:
    import transformers

    config = transformers.DPTConfig(
        hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=512, layer_norm_eps=1e-6,
        image_size=64, is_hybrid=hybrid, fusion_hidden_size=64, num_labels=7,
        neck_hidden_sizes=[256, 512, 128, 128] if hybrid else [32, 48, 96, 128],
        use_batch_norm_in_fusion_residual=kind == "DPTForSemanticSegmentation",
        **{"backbone_out_indices": [0, 1, 4, 5] if hybrid else [1, 2, 4, 5], **options},
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = randomise(getattr(transformers, kind)(config)).eval()
    for name, parameter in theirs.named_parameters():
        if name.endswith("embeddings"):
            nn.init.normal_(parameter)
        elif name.endswith("norm3.weight"):  # residual branches as small as trained ones; else rounding errors grow
            parameter.data *= 0.2
        elif ".bit." in name and "conv" in name:  # standardised: a variance for which their epsilon is negligible
            parameter.data *= 1000
    return theirs


def dinov3(**options: Any) -> Any:
    import transformers

    small = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**small, num_register_tokens=4, **options))


def depth_anything(kind: str, width: int = 128, blocks: int = 6, heads: int = 4, **options: Any) -> Any:
    """kind: relative or metric. On the meta device without values."""
    import transformers

    encoder = transformers.Dinov2Config(
        hidden_size=width, num_hidden_layers=blocks, num_attention_heads=heads, image_size=70, patch_size=14,
        out_indices=list(options.pop("features", (2, 3, 5, 6))), apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    given = {
        "neck_hidden_sizes": [24, 48, 96, 128], "fusion_hidden_size": 64, "depth_estimation_type": kind,
        "max_depth": 20 if kind == "metric" else 1, "reassemble_hidden_size": width,
    }  # fmt: skip
    config = transformers.DepthAnythingConfig(backbone_config=encoder, **given | options)
    theirs = transformers.DepthAnythingForDepthEstimation(config)
    if theirs.head.conv3.bias.is_meta:
        return theirs
    randomised(theirs, {"token|position": 11.0, r"\.weight$": 1.0}, 0.3)
    theirs.head.conv3.bias.data.fill_(0.5)
    return theirs
