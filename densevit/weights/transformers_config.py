"""The config.json and preprocessor_config.json of an export to transformers, if transformers has such a model."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from densevit.interfaces import Class
from densevit.weights.key_mapping import State
from densevit.weights.layouts.detr import COCO_ROWS
from densevit.weights.variants import RESNET, SWIN

Sections = Mapping[str, Any]
Json = dict[str, Any]

_VIT_HEADS = {128: 4, 192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1536: 24}  # by width
_NOT_IN_VIT = ("registers", "qk_norm", "swiglu", "layer_scale", "stem")  # our options that its ViT lacks


def files(
    layout: str,
    sections: Sections,
    state: State,
    classes: Sequence[Class],
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, Json]:
    """The files' contents by name; empty if transformers has no such model or its config is not implemented here.

    layout: its name. sections: as the layout describes them. state: with our keys.
    """
    config = next((build(sections, state) for start, build in _BUILDERS.items() if layout.startswith(start)), None)
    if config is None:
        return {}
    if classes:
        config["id2label"] = _labels(classes, "detection" in sections.get("heads", {}))
        config["label2id"] = {name: int(row) for row, name in config["id2label"].items()}
    processor = {
        "image_processor_type": "DetrImageProcessor" if layout.startswith("transformers-detr") else "ViTImageProcessor",
        "do_resize": False,  # the model's own config determines the size
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [*mean],
        "image_std": [*std],
    }
    return {"config.json": config, "preprocessor_config.json": processor}


def _labels(classes: Sequence[Class], detects: bool) -> dict[str, str]:
    """Names by row. Rows of COCO's 80 classes are file ids; unused ids are "N/A"."""
    if detects and len(classes) == 80:
        names = {one.file_id: one.name for one in classes}
        return {str(row): names.get(row, "N/A") for row in range(COCO_ROWS - 1)}
    return {str(row): one.name for row, one in enumerate(classes)}


def _vit(sections: Sections, state: State) -> Json | None:
    options = sections["backbone"]
    if any(key in options for key in _NOT_IN_VIT) or not options.get("class_token", True):
        return None
    distilled = bool(options.get("distillation_token"))
    kind, name = ("deit", "DeiTModel") if distilled else ("vit", "ViTModel")
    return _encoder(options, state) | {
        "model_type": kind,
        "architectures": [name],
        "intermediate_size": len(state["blocks.0.mlp.expand.bias"]),
    }


def _dinov2(sections: Sections, state: State) -> Json | None:
    options = sections["backbone"]
    if "qk_norm" in options or "stem" in options or options.get("distillation_token"):
        return None
    registers = options.get("registers", 0)
    more = {"model_type": "dinov2_with_registers", "num_register_tokens": registers} if registers else {}
    return _encoder(options, state) | {
        "model_type": "dinov2",
        "architectures": ["Dinov2WithRegistersModel" if registers else "Dinov2Model"],
        "mlp_ratio": 4,
        "use_swiglu_ffn": bool(options.get("swiglu")),
        **more,
    }


def _encoder(options: Mapping[str, Any], state: State) -> Json:
    width = len(state["blocks.0.norm1.weight"])
    return {
        "hidden_size": width,
        "num_hidden_layers": _count(state, r"blocks\.(\d+)\.norm1\.weight"),
        "num_attention_heads": _VIT_HEADS[width],
        "image_size": options["image_size"],
        "patch_size": options["patch_size"],
        "num_channels": 3,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "qkv_bias": True,
    }


def _swin(sections: Sections, state: State) -> Json | None:
    """transformers has one window size and limits it to the feature map of an image of `image_size`."""
    options = sections["backbone"]
    width, blocks = next(key for key, variant in SWIN.items() if variant == options["variant"])
    version = options.get("version", 1)
    windows = options.get("window_size") or (8 if version == 2 else 7)
    windows = (windows,) * 4 if isinstance(windows, int) else tuple(windows)
    side = 32 * windows[3]
    if any(window != min(windows[0], side // (4 * 2**i)) for i, window in enumerate(windows)):
        return None
    config: Json = {
        "model_type": "swin",
        "architectures": ["SwinModel"],
        "embed_dim": width,
        "depths": [*blocks],
        "num_heads": [width // 32 * 2**i for i in range(4)],
        "window_size": windows[0],
        "image_size": side,
        "patch_size": 4,
        "num_channels": 3,
        "qkv_bias": True,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
    }
    if version == 2:
        before = options.get("pretrained_window_sizes") or (0, 0, 0, 0)
        config |= {"model_type": "swinv2", "architectures": ["Swinv2Model"], "pretrained_window_sizes": [*before]}
    return config


def _resnet(sections: Sections, state: State) -> Json | None:
    options = sections["backbone"]
    if options.get("dilation") or "groups" in options or "variant" in options or options.get("norm") == "group":
        return None
    blocks, bottleneck = next(key for key, depth in RESNET.items() if depth == options["depth"])
    return {
        "model_type": "resnet",
        "architectures": ["ResNetModel"],
        "embedding_size": 64,
        "hidden_sizes": [64 * 2**i * (4 if bottleneck else 1) for i in range(4)],
        "depths": [*blocks],
        "layer_type": "bottleneck" if bottleneck else "basic",
        "hidden_act": "relu",
        "num_channels": 3,
    }


def _detr(sections: Sections, state: State) -> Json | None:
    """A DETR on timm's ResNet, whose keys are ours."""
    backbone, head = sections["backbone"], sections["heads"]["detection"]
    if "groups" in backbone or backbone.get("norm") == "group" or head["positions"] != "sine":
        return None
    first = head["pre_norm"]  # Table Transformer is DETR with pre-norm
    config = {
        "model_type": "table-transformer" if first else "detr",
        "architectures": ["TableTransformerForObjectDetection" if first else "DetrForObjectDetection"],
        "use_timm_backbone": True,
        "use_pretrained_backbone": False,
        "backbone": f"resnet{backbone['depth']}{'d' if backbone.get('variant') == 'd' else ''}",
        "backbone_config": None,
        "dilation": backbone["dilation"],
        "num_channels": 3,
        "num_queries": head["num_queries"],
        "d_model": head["width"],
        "position_embedding_type": "sine",
        "activation_function": "relu",
    }
    for part in ("encoder", "decoder"):
        config[f"{part}_layers"] = head[f"{part}_layers"]
        config[f"{part}_ffn_dim"] = head["feedforward"]
        config[f"{part}_attention_heads"] = head["num_heads"]
    return config


def _dpt(sections: Sections, state: State) -> Json | None:
    """A DPT on a plain ViT."""
    backbone, (task, head) = sections["backbone"], next(iter(sections["heads"].items()))
    inside = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    encoder = _vit({"backbone": backbone}, inside)
    if encoder is None or head.get("output", "relative") != "relative" or backbone.get("readout") != "project":
        return None
    depth = encoder["num_hidden_layers"]
    features = backbone.get("features") or [-(-depth * i // 4) for i in (1, 2, 3, 4)]
    depth_head = task == "depth"
    return encoder | {
        "model_type": "dpt",
        "architectures": ["DPTForDepthEstimation" if depth_head else "DPTForSemanticSegmentation"],
        "is_hybrid": False,
        "backbone_out_indices": [number - 1 for number in features],
        "readout_type": "project",
        "reassemble_factors": [4, 2, 1, 0.5],
        "neck_hidden_sizes": [*head["reassemble_channels"]],
        "fusion_hidden_size": head["width"],
        "use_batch_norm_in_fusion_residual": not depth_head or head.get("norm", "none") != "none",
        "use_auxiliary_head": not depth_head and "heads.segmentation.auxiliary.0.weight" in state,
    }


def _none(sections: Sections, state: State) -> Json | None:
    return None


def _count(state: State, pattern: str) -> int:
    return len({match[1] for key in state if (match := re.fullmatch(pattern, key))})


_BUILDERS: dict[
    str, Callable[[Sections, State], Json | None]
] = {  # by prefix of the layout name, the first that matches
    "transformers-detr-resnet": _none,
    "transformers-detr": _detr,
    "transformers-dpt-hybrid": _none,
    "transformers-dpt": _dpt,
    "transformers-vit": _vit,
    "transformers-deit": _vit,
    "transformers-dinov2": _dinov2,
    "transformers-swin": _swin,
    "transformers-resnet": _resnet,
}
