"""Models of ours, written in transformers' layout and the authors', compute the same and come back."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch

import densevit
from densevit_checkpoints.foreign_weights import convert
from densevit_checkpoints.transformers_export import export
from tests.checkpoints.authors_files import write_in_layout
from tests.checkpoints.layouts.models import HALF, IMAGENET, NONE, run
from tests.checkpoints.layouts.test_depth_anything import VIT
from tests.checkpoints.layouts.test_transformers_models import Case, compare
from tests.checkpoints.layouts.translations import padded_batch

pytestmark = pytest.mark.integration


class Ours(NamedTuple):
    """A model whose options differ from the defaults. authors: their layout, and options that its tensors lack."""

    layout: str
    kind: str
    task: str
    backbone: dict[str, Any]
    head: dict[str, Any]
    authors: str = ""
    lacking: Sequence[str] = ()
    pixels: tuple[Any, Any] = IMAGENET
    size: tuple[int, int] = (64, 96)


FROZEN = {"name": "resnet", "depth": 18, "norm": "frozen"}
VD = {"name": "resnet", "depth": 18, "variant": "vd", "mean": [0, 0, 0], "std": [1, 1, 1]}
HGNET = {"name": "timm", "model": "hgnetv2_b0", "mean": [0, 0, 0], "std": [1, 1, 1]}
DPT = {
    "name": "vit",
    "variant": "nano",
    "image_size": 64,
    "readout": "project",
    "feature_norm": False,
    "features": [1, 2, 4, 6],
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
}
PANOPTIC_HEAD = {"width": 64, "num_heads": 8, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 40}
SMALL = {"width": 64, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 40}
NARROW = {**SMALL, "width": 32, "dropout": 0.0}
ENCODER = {"width": 16, "feedforward": 24, "expansion": 0.5}
DEFORMABLE = {"name": "deformable_detr", "transformer": SMALL, "num_points": 2, "num_queries": 40}
MASKS = {
    "num_queries": 7,
    "pixel_decoder": {"layers": 1, "feedforward": 24},
    "transformer": {"width": 64, "num_heads": 4, "decoder_layers": 2, "feedforward": 40},
}
DETECTION = "heads.detection."
OPTIONS = [f"{DETECTION}num_points=2", f"{DETECTION}num_queries=40", f"{DETECTION}transformer.num_heads=4"]
OURS = {
    "deformable, two-stage": Ours(
        "transformers-deformable-detr", "DeformableDetrForObjectDetection", "detection", FROZEN,
        {**DEFORMABLE, "box_refinement": True, "two_stage": True}, "deformable-detr", OPTIONS,
    ),
    "rtdetrv2": Ours(
        "transformers-rtdetr", "RTDetrV2ForObjectDetection", "detection", VD,
        {"name": "rtdetr", "transformer": NARROW, "encoder": ENCODER, "num_queries": 11, "num_points": 2,
         "sampling": "discrete", "contrastive_denoising": 6}, pixels=NONE,
    ),
    "dfine": Ours(
        "transformers-dfine", "DFineForObjectDetection", "detection", HGNET,
        {"name": "dfine", "transformer": NARROW, "encoder": ENCODER, "num_queries": 11, "num_points": [2, 3],
         "min_stride": 16, "contrastive_denoising": 6, "num_bins": 16, "fusion_blocks": 2, "reg_scale": 6.0},
        pixels=NONE,
    ),
    **{
        f"mask2former{suffix}, {backbone['name']}": Ours(
            f"transformers-mask2former{'-resnet' * (backbone is FROZEN)}{suffix}",
            "Mask2FormerForUniversalSegmentation", task, backbone,
            {"name": f"mask2former{suffix.replace('-', '_')}", **MASKS},
            f"mask2former{'-resnet' * (backbone is FROZEN)}{suffix}", size=(128, 160),
        )
        for backbone in ({"name": "swin", "variant": "nano", "window_size": 4}, FROZEN)
        for suffix, task in (("-instance", "detection"), ("-semantic", "segmentation"))
    },
    "depth anything": Ours(
        "transformers-depth-anything-metric", "DepthAnythingForDepthEstimation", "depth", VIT,
        {"name": "dpt", "upsampling": "exact", "width": 64, "reassemble_channels": [24, 48, 96, 128],
         "output": "sigmoid", "min_depth": 1e-6, "max_depth": 20.0},
        "depth-anything-v2-indoor", ["backbone.features=[2,3,5,6]"], size=(70, 98),
    ),
    "dpt": Ours(
        "transformers-dpt-segmentation", "DPTForSemanticSegmentation", "segmentation", DPT,
        {"name": "dpt_segmentation", "width": 16, "reassemble_channels": [8, 12, 16, 24]}, pixels=HALF, size=(64, 64),
    ),
    "segformer": Ours(
        "transformers-segformer", "SegformerForSemanticSegmentation", "segmentation",
        {"name": "mit", "variant": "b0", "norm_eps": 1e-5}, {"name": "segformer", "width": 16},
    ),
    "panoptic": Ours(
        "transformers-detr-panoptic", "DetrForSegmentation", "panoptic", FROZEN,
        {"name": "detr_panoptic", "detr": {"num_queries": 7, "transformer": PANOPTIC_HEAD}}, "detr-panoptic",
    ),
}  # fmt: skip


@pytest.mark.parity("transformers-mask2former-instance", "transformers-mask2former-semantic")
@pytest.mark.parity("transformers-mask2former-resnet-instance", "transformers-mask2former-resnet-semantic")
@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_a_model_of_ours_is_exported_with_its_config_and_comes_back(name, tmp_path):
    """As `densevit convert RUN OUT --to hf`, and to the authors' layout."""
    import transformers

    case = OURS[name]
    classes = None if case.task == "depth" else [f"thing {i}" for i in range(5)]
    model = densevit.create_model(case.backbone, {case.task: case.head}, classes)
    torch.manual_seed(1)
    spread = 0.01 if case.task == "depth" else 0.1  # depth ends in a sigmoid
    for parameter in model.heads.parameters():
        parameter.add_(spread * torch.randn_like(parameter))
    densevit.save(model, tmp_path / "model.safetensors")
    export(tmp_path / "model.safetensors", tmp_path / "hf")
    files = [(tmp_path / "hf", case.layout, ())]
    if case.authors:
        write_in_layout(tmp_path / "model.safetensors", case.authors, tmp_path / "theirs.pth")
        files.append((tmp_path / "theirs.pth", case.authors, case.lacking))
    for file, layout, options in files:
        back = convert(file, layout, options).model
        assert back.plugin_name(case.task) == case.head["name"]
        assert all(torch.equal(x, back.state_dict()[key]) for key, x in model.state_dict().items())
    again = getattr(transformers, case.kind).from_pretrained(tmp_path / "hf").eval()
    batch = padded_batch([case.size] * 2)
    outputs, expected = model.eval()(batch)[case.task], run(again, batch, *case.pixels)
    compare(model, case.task, outputs, expected, Case(case.layout, lambda: None, sizes=[case.size]))
