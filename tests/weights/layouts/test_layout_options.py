"""The options that a layout implies hold wherever weights are loaded, unless the user has set them.

Checkpoints have random weights in the authors' keys. The models that they are loaded into are compared with models
whose options are set by hand.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import densevit
from densevit import config as configs
from densevit.weights import layouts
from densevit.weights.key_mapping import missing_because, translate, translate_back
from densevit.weights.layouts import find
from densevit_backbones.vit.variants import VARIANTS, Variant
from densevit_methods.teachers import load_backbone
from densevit_workbench.interchange.foreign_weights import convert
from tests.weights.layouts.originals.record_google import random_arrays
from tests.weights.layouts.recordings import recorded

SIZE = (64, 128)  # with windows of 4 cells of 16 pixels, only one of the axes is shifted
HALF = [0.5, 0.5, 0.5]


class Case(NamedTuple):
    """A small model. given: the user's section. implied: the options of the layout. more: further tensors of a file.
    config: its config.json. prefix: of the keys."""

    given: dict[str, Any]
    implied: dict[str, Any]
    more: Mapping[str, torch.Tensor] = MappingProxyType({})
    config: Mapping[str, Any] = MappingProxyType({})
    prefix: str = ""


def swinv2_tables(window, before):
    """The tables of relative coordinates in Microsoft's files (Liu et al. 2022, equation 4)."""
    axis = torch.arange(1.0 - window, window) / (before - 1) * 8
    axis = axis.sign() * (1 + axis.abs()).log2() / 3
    table = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)[None]
    return {f"layers.{s}.blocks.0.attn.relative_coords_table": table for s in range(4)}


def marks(*names):
    return {name: torch.zeros(1) for name in names}


SWIN, VIT = {"name": "swin", "variant": "nano"}, {"name": "vit", "variant": "nano"}
DINOV3 = {"positions": "rotary", "key_bias": False, "norm_eps": 1e-5}
BACKBONES = {
    "microsoft-swin": Case(SWIN, {"window_size": 4, "shift": "both_axes"}),
    "microsoft-swin-dense": Case(SWIN, {"window_size": 4, "shift": "dense"}),
    "transformers-swin": Case(SWIN, {"window_size": 4, "shift": "both_axes"}),
    "timm-swin": Case(SWIN, {"window_size": 4}),
    "torchvision-swin": Case(SWIN, {"window_size": 4}),
    "microsoft-swinv2": Case(
        {**SWIN, "version": 2},
        {"window_size": 4, "pretrained_window_sizes": (3, 3, 3, 3), "shift": "both_axes"},
        swinv2_tables(4, 3),
    ),
    "timm-vit": Case(VIT, {"image_size": 64}),
    "torchvision-vit": Case(VIT, {"image_size": 64}),
    "transformers-vit": Case(VIT, {"image_size": 64, "position_resizing": "bicubic"}),
    "mae": Case(
        VIT,
        {"image_size": 64, "position_resizing": "bicubic"},
        marks("mask_token", "decoder_embed.weight", "decoder_blocks.0.attn.qkv.weight", "decoder_pred.weight"),
    ),
    "beit": Case(
        {**VIT, "positions": "relative", "key_bias": False, "layer_scale": 0.1},
        {"image_size": 64, "position_resizing": "bicubic"},
    ),
    "dinov2": Case(
        {**VIT, "layer_scale": 1e-5},
        {"image_size": 56, "patch_size": 14, "position_resizing": "bicubic_offset"},
        marks("mask_token"),
    ),
    "dinov3": Case({**VIT, "registers": 4, "layer_scale": 1e-5}, DINOV3, marks("rope_embed.periods")),
    "transformers-dinov3": Case(
        {**VIT, "registers": 4, "layer_scale": 1e-5}, {**DINOV3, "norm_eps": 1e-3}, config={"layer_norm_eps": 1e-3}
    ),
    "google-vit": Case(VIT, {"image_size": 64, "gelu": "tanh"}),
    "transformers-mit": Case({"name": "mit", "variant": "b0"}, {"norm_eps": 1e-5}),
    "facebook-mvitv2": Case({"name": "mvit", "class_token": True}, {"image_size": 64, "class_token_residual": False}),
    "detectron2-mvitv2": Case(
        {"name": "mvit"},
        {"image_size": 64, "window_size": 56, "coarse_global_keys": True},
        prefix="backbone.bottom_up.",
    ),
    "transformers-cvt": Case({"name": "cvt"}, {"gelu": "erf"}),
}


@pytest.fixture
def backbone_file(tmp_path, randomise, monkeypatch):
    """`backbone_file(layout)`: a file of random weights, and the backbone with the options set by hand."""

    def backbone_file(name):
        case, layout = BACKBONES[name], find(name)
        if name == "google-vit":
            monkeypatch.setitem(VARIANTS, "nano", Variant(32, 4, 2, 0.0))  # as recorded
        torch.manual_seed(1)
        reference = randomise(densevit.create_backbone(**case.given, **case.implied))
        for key, tensor in reference.state_dict().items():
            if missing_because(key, layout):
                tensor.fill_(float(key.endswith("weight")))
        if name == "google-vit":
            state = random_arrays(recorded("google-vit")[0])
            reference.load_state_dict(translate(state, layout).tensors)
            np.savez(tmp_path / "theirs.npz", **{key: x.numpy() for key, x in state.items()})
            return tmp_path / "theirs.npz", reference.eval()
        state, _ = translate_back(reference.state_dict(), layout)
        state = {case.prefix + key: tensor for key, tensor in {**state, **case.more}.items()}
        torch.save(state, tmp_path / "pytorch_model.bin")
        if not case.config:
            return tmp_path / "pytorch_model.bin", reference
        (tmp_path / "config.json").write_text(json.dumps(dict(case.config)))
        return tmp_path, reference

    return backbone_file


def trained(section, folder):
    """The backbone of a run of one step without learning."""
    data = {"name": "scenes", "train_length": 2, "val_length": 1, "image_size": 64, "batch_size": 2, "num_workers": 0}
    values = {"backbone": {**section, "freeze": True}, "heads": {"x": {"name": "setr", "width": 8, "evaluation": None}}}
    values |= {"data": data, "trainer": {"max_steps": 1, "accelerator": "cpu"}}
    run = densevit.fit(configs.from_mapping(values), run_dir=folder)
    return densevit.load(run.path).backbone


HEADS = {"x": {"name": "setr", "width": 8}}
PLACES = {
    "create_backbone": lambda given, file: densevit.create_backbone(**given, weights=file),
    "backbone.weights": lambda given, file: (
        densevit.create_model({**given, "weights": str(file)}, HEADS, ["a", "b"]).backbone
    ),
    "fit": lambda given, file: trained({**given, "weights": str(file)}, file.with_name("run")),
    "teacher": lambda given, file: load_backbone({**given, "weights": str(file)}).backbone,
    "convert": lambda given, file: convert(file).backbone,
}


def assert_same(found, expected, place):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3, msg=lambda text: f"{place}: {text}")


EVERYWHERE = ("dinov2", "deformable-detr", "dpt-hybrid")  # the others by create_model
SAME = {  # layouts of the plugins' defaults only, or of the options of one above
    *("torchvision-resnet", "timm-resnet", "transformers-resnet", "rtdetr-resnet", "transformers-rtdetr-resnet"),
    *("nvidia-mit", "segformer", "microsoft-cvt", "timm-mvit", "detr", "detr-panoptic", "transformers-detr"),
    *("transformers-detr-panoptic", "transformers-deformable-detr", "rtdetr", "rtdetrv2", "transformers-rtdetr"),
    *("transformers-rtdetrv2", "dfine", "transformers-dfine", "eomt", "transformers-eomt", "transformers-eomt-dinov3"),
    *("dpt", "transformers-dpt", "transformers-depth-anything", "transformers-mask2former", "transformers-upernet"),
}


def test_every_layout_with_options_is_compared():
    found = {name for name in layouts.names() if find(name).options.project_defaults or find(name).options.unsaved}
    variants = {one.name: name for name in layouts.names() for one in find(name).variants}
    assert found == SAME | {variants.get(name, name) for name in (*BACKBONES, *MODELS)}


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_backbones_compute_as_their_authors_wherever_they_are_loaded(name, backbone_file):
    case = BACKBONES[name]
    file, reference = backbone_file(name)
    pixels = torch.randn(1, 3, *SIZE)
    expected = reference(pixels)
    created = densevit.create_model(case.given, HEADS, ["a", "b"], weights=file)
    assert_same(created.backbone(pixels), expected, "create_model")
    options = created.model.architecture.backbone.options
    assert {key: options.get(key) for key in case.implied} == case.implied  # an epsilon changes little
    if name in EVERYWHERE:
        for place, load in PLACES.items():
            assert_same(load(case.given, file).eval()(pixels), expected, place)


class Model(NamedTuple):
    """A small complete model. given, head: the user's sections. implied, head_implied: the options of the layout.
    config: its config.json."""

    given: dict[str, Any]
    implied: dict[str, Any]
    head: dict[str, Any]
    head_implied: dict[str, Any]
    task: str
    config: Mapping[str, Any] = MappingProxyType({})


RESNET = {"name": "resnet", "depth": 18, "norm": "frozen"}
SMALL = {"width": 32, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 24}
MODELS = {
    "deformable-detr": Model(
        RESNET,
        {},
        {"name": "deformable_detr"},
        {"transformer": SMALL, "num_queries": 9, "num_points": 2, "blank_padding": False},
        "detection",
    ),
    "transformers-detr-resnet": Model(
        RESNET,
        {"dilation": True},
        {"name": "detr", "transformer": SMALL},
        {"num_queries": 9, "transformer": {**SMALL, "num_heads": 4}},
        "detection",
        {"model_type": "detr", "dilation": True, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
    ),
    "mask2former": Model(
        SWIN,
        {"window_size": 4, "shift": "dense"},
        {"name": "mask2former"},
        {
            "num_queries": 9,
            "transformer": {"width": 32, "num_heads": 4, "decoder_layers": 3, "feedforward": 24},
            "pixel_decoder": {"mask_padding": False},
        },
        "panoptic",
    ),
    "eomt-semantic": Model(
        {**VIT, "layer_scale": 1e-5},
        {"image_size": 64, "fixed_size": True},
        {"name": "eomt_semantic"},
        {"num_queries": 100, "num_blocks": 4},
        "segmentation",
    ),
    "mmseg-setr": Model(
        {**VIT, "feature_norm": False},
        {"image_size": 64, "position_resizing": "bilinear"},
        {"name": "setr"},
        {"decoder": "pup", "width": 16, "auxiliary": [1], "padded": "stretch"},
        "segmentation",
    ),
    "dpt-hybrid": Model(
        {**VIT, "stem": "resnet"},
        {
            "image_size": 64,
            "position_resizing": "bilinear",
            "weight_standardization": "std",
            "readout": "project",
            "feature_norm": False,
        },
        {"name": "dpt"},
        {"width": 16, "reassemble_channels": [256, 512, 16, 16], "norm": "none"},
        "depth",
    ),
    "depth-anything-v2": Model(
        {**VIT, "patch_size": 14, "layer_scale": 1e-5},
        {"image_size": 56, "position_resizing": "bicubic_offset"},
        {"name": "dpt"},
        {"width": 16, "reassemble_channels": [8, 8, 16, 16], "upsampling": "exact"},
        "depth",
    ),
    "transformers-segformer": Model(
        {"name": "mit", "variant": "b0"}, {"norm_eps": 1e-5}, {"name": "segformer"}, {"width": 16}, "segmentation"
    ),
    "kmax-deeplab": Model(
        {**RESNET, "norm": "batch"},
        {"norm_eps": 1e-3},
        {"name": "kmax_deeplab"},
        {
            "num_queries": 7,
            "layers": [1, 2, 1],
            "pixel_layers": [1, 2, 1, 1],
            "width": 16,
            "pixel_width": 4,
            "num_heads": 4,
            "align_corners": True,
            "feedforward": 24,
        },
        "panoptic",
    ),
}


@pytest.fixture
def model_file(tmp_path, randomise):
    def model_file(name):
        case, layout = MODELS[name], find(name)
        torch.manual_seed(1)
        head = {**case.head, **case.head_implied}
        built = densevit.create_model(
            {**case.given, **case.implied}, {case.task: head}, [*"abcde"][: 0 if case.task == "depth" else 5]
        )
        reference = randomise(built.model)
        for key, tensor in reference.state_dict().items():
            if missing_because(key, layout):
                tensor.fill_(float(key.endswith("weight")))
        state, _ = translate_back(reference.state_dict(), layout)
        torch.save(state, tmp_path / "pytorch_model.bin")
        if case.config:
            (tmp_path / "config.json").write_text(json.dumps(dict(case.config)))
        classes = layout.classes(state, {"config": dict(case.config)}) if layout.classes else {}
        return tmp_path if case.config else tmp_path / "pytorch_model.bin", reference, classes.get(case.task, ())

    return model_file


def outputs(model, name):
    size = (64, 64) if "eomt" in name else SIZE
    padding = torch.zeros(1, *size, dtype=torch.bool)
    padding[:, :, -16:] = True
    torch.manual_seed(2)
    batch = {
        "images": torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8),
        "padding_mask": padding,
        "targets": [{"size": torch.tensor([*size])}],
    }
    model.eval().set_normalisation(HALF, HALF)
    [found] = model(batch).values()
    return {key: value for key, value in found.items() if torch.is_tensor(value)}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_models_compute_as_their_authors_wherever_they_are_loaded(name, model_file):
    case = MODELS[name]
    file, reference, classes = model_file(name)
    expected = outputs(reference, name)
    source = str(file)
    created = densevit.create_model(case.given, {"x": case.head}, classes, weights=file).model
    options = created.architecture.backbone.options
    assert {key: options.get(key) for key in case.implied} == case.implied
    loaded = {"create_model": created}
    if name in EVERYWHERE:
        separate = {"x": {**case.head, "weights": source}}
        parts = densevit.create_model({**case.given, "weights": source}, separate, classes)
        loaded |= {"a source for each part": parts.model, "load": densevit.load(source).model}
    for place, model in loaded.items():
        found = outputs(model, name)
        assert found.keys() == expected.keys()
        assert_same([*found.values()], [expected[key] for key in found], place)
