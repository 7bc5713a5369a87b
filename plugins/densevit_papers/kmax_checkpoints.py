"""bytedance/kmax-deeplab (Yu et al. 2022): complete models on detectron2's ResNet, for COCO and ADE20K panoptic.

Two groups of models are not read: models for Cityscapes, whose pixel decoder has a fifth stage on the map of the stem,
and models on ConvNeXt, whose patches begin a pixel left of and above the image (in timm at its corner).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import CheckpointLayout, Class, LayoutOptions, Licences, Line, Publishing, StateDict
from densevit.layouts import count, find, panoptic_classes, part

_HEAD = "heads.panoptic"
_PIXELS, _DECODER = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
_LABELS = "_transformer_class_head.conv"
_NUM_STAGES = 4  # of the pixel decoder
_IMAGE_SIZE = 1281  # odd: the authors' code then aligns corners
_RESNET = {"norm": "sync", "norm_eps": 1e-3, "norm_momentum": 0.01}
_ADE20K = {"drop_path": 0.0, "thing_threshold": 0.4, "stuff_threshold": 0.4}  # other models have the head's defaults


def _resnet_lines() -> list[Line]:
    parts = {f"conv{i}": (f"conv{i}", f"bn{i}") for i in range(1, 4)} | {"shortcut": ("downsample.0", "downsample.1")}
    return [
        Line("backbone.stem.conv1.weight", "backbone.conv1.weight"),
        Line("backbone.stem.conv1.norm.*", "backbone.bn1.*"),
        *(
            line
            for stage in range(1, 5)
            for name, (conv, norm) in parts.items()
            for line in (
                Line(f"backbone.res{stage + 1}.{{b}}.{name}.weight", f"backbone.layer{stage}.{{b}}.{conv}.weight"),
                Line(f"backbone.res{stage + 1}.{{b}}.{name}.norm.*", f"backbone.layer{stage}.{{b}}.{norm}.*"),
            )
        ),
    ]


def _conv_norms(source: str, target: str, names: Mapping[str, str]) -> list[Line]:
    """Maps the keys of convolutions with a norm. names: the model's names by the checkpoint's."""
    return [
        Line(f"{source}.{name}.{layer}.*", f"{target}.{part}.{i}.*")
        for name, part in names.items()
        for i, layer in enumerate(("conv", "norm"))
    ]


def _pixel_decoder_lines() -> list[Line]:
    target = f"{_HEAD}.pixel_decoder"
    block, target_block = f"{_PIXELS}._stages.{{i}}._blocks.{{j}}", f"{target}.stages.{{i}}.{{j}}"
    names = {"_conv1_bn_act": "reduce", "_conv2_bn_act": "convolution", "_conv3_bn": "expand", "_shortcut": "shortcut"}
    fuses = {"_conv_bn_low": "coarse.1", "_conv_bn_high": "fine.1"}
    return [
        Line(f"{_PIXELS}._in_norms.{{i}}.*", f"{target}.norms.{{i}}.*"),
        *_conv_norms(block, target_block, names),
        *_axial_lines(f"{block}._attention._height_axis", f"{target_block}.attention.columns"),
        *_axial_lines(f"{block}._attention._width_axis", f"{target_block}.attention.rows"),
        *_conv_norms(f"{_PIXELS}._resized_fuses.{{i}}", f"{target}.fuses.{{i}}", fuses),
    ]


def _axial_lines(source: str, target: str) -> list[Line]:
    """Maps the keys of the attention along an axis."""
    return [
        Line(f"{source}.qkv_transform.conv.weight", f"{target}.qkv.0.weight"),
        Line(f"{source}._batch_norm_qkv.*", f"{target}.qkv.1.*"),
        Line(f"{source}._batch_norm_similarity.*", f"{target}.norm_scores.*"),
        Line(f"{source}._batch_norm_retrieved_output.*", f"{target}.norm_values.*"),
        *(
            Line(f"{source}._{projection}_rpe._embeddings.weight", f"{target}.positions.{i}")
            for i, projection in enumerate(("query", "key", "value"))
        ),
    ]


def _predictor_lines(source: str, target: str) -> list[Line]:
    source, target = f"{source}._predcitor", f"{target}.predictor"  # the authors' spelling
    names = {
        "_pixel_space_head_conv0bnact": "pixel_head.0",
        "_pixel_space_head_conv1bnact": "pixel_head.1",
        "_pixel_space_head_last_convbn": "pixel_head.2",
        "_transformer_mask_head": "kernel_head",
    }
    return [
        *_conv_norms(source, target, names),
        Line(f"{source}.{_LABELS}.*", f"{target}.label_head.*"),
        Line(f"{source}._pixel_space_mask_batch_norm.*", f"{target}.norm_masks.*"),
    ]


def _decoder_lines() -> list[Line]:
    layer, target = f"{_DECODER}._kmax_transformer_layers.{{i}}", f"{_HEAD}.layers.{{i}}"
    attention = f"{layer}._query_self_attention"
    names = {
        "_query_conv1_bn_act": "reduce_queries",
        "_pixel_conv1_bn_act": "reduce_pixels",
        "_query_qkv_conv_bn": "qkv",
        "_pixel_v_conv_bn": "pixel_value",
        "_kmeans_query_conv3_bn": "expand_update",
        "_query_conv3_bn": "expand_attended",
        "_query_ffn_conv1_bn_act": "ffn.0",
        "_query_ffn_conv2_bn": "ffn.1",
    }
    projections = {"_class_embedding_projection": "class_queries", "_mask_embedding_projection": "mask_queries"}
    return [
        Line(f"{_DECODER}._cluster_centers.weight", f"{_HEAD}.queries"),
        *_conv_norms(layer, target, names),
        Line(f"{attention}._batch_norm_similarity.*", f"{target}.self_attention.norm_scores.*"),
        Line(f"{attention}._batch_norm_retrieved_value.*", f"{target}.self_attention.norm_values.*"),
        Line(f"{layer}._kmeans_query_batch_norm_retrieved_value.*", f"{target}.norm_update.*"),
        *_predictor_lines(layer, target),
        *_conv_norms(_DECODER, _HEAD, projections),
        *_predictor_lines(_DECODER, _HEAD),
    ]


def _semantic_lines() -> list[Line]:
    source, target = f"{_DECODER}._auxiliary_semantic_predictor", f"{_HEAD}.semantic_head"
    names = {f"_aspp._aspp_conv{i}": f"branches.{i}" for i in range(4)}
    names |= {"_aspp._aspp_pool": "pooled", "_aspp._proj_conv_bn_act": "project.0"}
    for i, stride in enumerate((8, 4)):
        names[f"_low_level_projection_os{stride}"] = f"laterals.{i}"
        names |= {f"_low_level_fusion_os{stride}_conv{j}_bn_act": f"fusions.{i}.{j}" for j in range(2)}
    names |= {f"conv_block_{j}": f"classifier.0.{j}" for j in range(2)}
    return [
        *_conv_norms(source, target, names),
        Line(f"{source}.final_conv.conv.*", f"{target}.classifier.1.*"),
    ]


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config sections of a kMaX-DeepLab, from tensors with densevit's keys."""
    pixels = f"{_HEAD}.pixel_decoder"
    stages = count(tensors, rf"{pixels}\.stages\.(\d+)\..*")
    if stages != _NUM_STAGES:
        raise WeightsError(
            f"The pixel decoder has {stages} stages; expected {_NUM_STAGES}, of the maps of stride 32, 16, 8 and 4. "
            "Models with a fifth stage, such as for Cityscapes, are not supported."
        )
    maps = [len(tensors[f"{pixels}.stages.{i}.0.expand.0.weight"]) for i in range(stages)]
    if maps != [maps[-1] * 2**i for i in reversed(range(stages))]:
        raise WeightsError(f"The pixel decoder has maps of {maps} channels; expected half as many in each as before.")
    attended = [
        tensors[f"{_HEAD}.layers.{i}.reduce_pixels.0.weight"].shape[1]
        for i in range(count(tensors, rf"{_HEAD}\.layers\.(\d+)\..*"))
    ]
    layers = [attended.count(channels) for channels in maps[:-1]]
    if attended != [channels for channels, number in zip(maps, layers, strict=False) for _ in range(number)]:
        raise WeightsError(
            f"The k-means layers attend to maps of {attended} channels; expected the pixel decoder's {maps[:-1]}, in "
            "this order; several layers may attend to one map."
        )
    width, queries = tensors[f"{_HEAD}.queries"].shape
    head: dict[str, Any] = {
        "name": "kmax_deeplab",
        "num_queries": queries,
        "layers": layers,
        "pixel_layers": [count(tensors, rf"{pixels}\.stages\.{i}\.(\d+)\..*") for i in range(stages)],
        "width": width,
        "pixel_width": maps[-1] // 4,
        "num_heads": len(tensors[f"{pixels}.stages.0.0.attention.columns.norm_scores.weight"]) // 3,
        "align_corners": True,
    }
    if attended:
        head["feedforward"] = len(tensors[f"{_HEAD}.layers.0.ffn.0.0.weight"])
    if len(tensors[f"{_HEAD}.predictor.label_head.bias"]) == 150 + 1:
        head |= _ADE20K
    if f"{_HEAD}.semantic_head.classifier.1.bias" in tensors:
        head["semantic_void"] = True
    else:
        head["losses"] = {"semantic": 0.0}
    backbone = find("torchvision-resnet").describe(part(tensors, "backbone."))["backbone"]
    return {"backbone": backbone | _RESNET, "heads": {"panoptic": head}}


def _classes(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, tuple[Class, ...]]:
    rows = len(state[f"{_DECODER}._predcitor.{_LABELS}.bias"]) - 1  # the last is "no object"
    return {"panoptic": panoptic_classes(rows, metadata.get("classes", ()))}


def _recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe of training on COCO, for 150 classes on ADE20K; images are fitted into 1281 x 1281 pixels."""
    ade20k = len(classes.get("panoptic", ())) == 150
    data: dict[str, Any] = {"name": "coco_panoptic", "image_size": _IMAGE_SIZE, "batch_size": 16}
    data |= {"root": "ADEChallengeData2016", "preset": "ade20k"} if ade20k else {"root": "coco"}
    data["transforms"] = {"name": "lsj", "scales": [0.5 if ade20k else 0.2, 2.0]}
    optim = {"name": "adamw", "lr": 5e-4, "backbone_lr": 5e-5, "weight_decay": 0.05, "schedule": "poly"}
    trainer = {"max_steps": 100000 if ade20k else 150000, "accumulate": 4, "devices": 1, "precision": "16-mixed"}
    sections = {"data": data, "optim": {**optim, "warmup_steps": 5000}, "trainer": {**trainer, "evaluations": 20}}
    return "coco/mask2former_r50_panoptic", sections


KMAX_DEEPLAB = CheckpointLayout(
    name="kmax-deeplab",
    signature_keys=(
        "backbone.stem.conv1.weight",
        f"{_PIXELS}._stages.{{i}}._blocks.{{j}}._conv1_bn_act.conv.weight",
        f"{_DECODER}._cluster_centers.weight",
        f"{_DECODER}._predcitor.{_LABELS}.weight",
    ),
    lines=(*_resnet_lines(), *_pixel_decoder_lines(), *_decoder_lines(), *_semantic_lines()),
    describe=describe,
    classes=_classes,
    options=LayoutOptions(
        project_defaults=("norm_eps", "norm_momentum", f"{_HEAD}.align_corners", f"{_HEAD}.semantic_void")
    ),
    publishing=Publishing(
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        licences=Licences(
            "Apache-2.0",
            data="ImageNet, COCO or ADE20K",
            teacher="none",
            source="https://github.com/bytedance/kmax-deeplab/blob/f8e1d04/LICENSE",
            date="2026-11-29",
        ),
        recipe=_recipe,
    ),
)
