"""transformers' models with random weights: ours, read from their folders, compute the same, and are written as theirs.

Files have the names of version 4, as on the Hub; models in memory have those of the installed version.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

import densevit
from densevit.layouts import coco_classes, coco_panoptic_classes, find
from densevit_checkpoints.foreign_weights import convert, write
from densevit_checkpoints.key_mapping import translate
from densevit_checkpoints.recognition import recognise
from densevit_checkpoints.transformers_export import export
from tests.checkpoints.authors_files import write_in_layout
from tests.checkpoints.layouts import dense_models as dense
from tests.checkpoints.layouts import models
from tests.checkpoints.layouts.models import HALF, IMAGENET, NONE, assert_same, run
from tests.checkpoints.layouts.translations import padded_batch, written_back

pytestmark = pytest.mark.integration

PADDED = [(96, 130), (70, 111), (125, 64)]
EQUAL = [(64, 96)] * 2  # of whole strides, as transformers' top-down path needs
USED = [one.file_id for one in coco_classes()]
PANOPTIC = [one.file_id for one in coco_panoptic_classes()]


class Case(NamedTuple):
    """make: their model, from a batch. pixels: mean and std. rows: of their logits."""

    layout: str
    make: Callable[..., Any]
    classes: int = 80
    sizes: Sequence[tuple[int, int]] = PADDED
    pixels: tuple[Any, Any] = IMAGENET
    rows: Any = slice(None)


def panoptic(batch: Any, own: bool) -> Any:
    names = {i: f"LABEL_{i}" for i in range(250)} | {one.file_id: one.name for one in coco_panoptic_classes()}
    return models.detr("DetrForSegmentation", batch, own, d_model=128, id2label=names, label2id={})


TWO_STAGE = {"with_box_refine": True, "two_stage": True, "two_stage_num_proposals": 60}
DISCRETE = {"decoder_method": "discrete", "decoder_n_points": 3}
RF_DETR = ("rf-detr", "rf-detr-base", "transformers-lw-detr")
CASES = {
    "detr": Case(
        "transformers-detr",
        lambda batch: models.detr("DetrForObjectDetection", batch, **models.coco_names()),
        rows=[*USED, 91],
    ),
    "table transformer": Case(  # before each layer a norm
        "transformers-detr-resnet",
        lambda batch: models.detr("TableTransformerForObjectDetection", batch, True, num_labels=2),
        2,
    ),
    "panoptic": Case("transformers-detr-panoptic", lambda batch: panoptic(batch, False), 133, rows=[*PANOPTIC, 250]),
    "panoptic, own ResNet": Case(
        "transformers-detr-panoptic-resnet", lambda batch: panoptic(batch, True), 133, rows=[*PANOPTIC, 250]
    ),
    "deformable": Case("transformers-deformable-detr", lambda *_: models.deformable_detr(), rows=USED),
    "deformable, two-stage": Case(
        "transformers-deformable-detr-resnet", lambda *_: models.deformable_detr(True, **TWO_STAGE), rows=USED
    ),
    "rtdetr": Case("transformers-rtdetr", lambda *_: models.rtdetr(num_denoising=0), 80, EQUAL, NONE),
    "rtdetrv2": Case("transformers-rtdetrv2", lambda *_: models.rtdetr(2, **DISCRETE), 80, EQUAL, NONE),
    "dfine": Case("transformers-dfine", lambda *_: models.dfine(models.THREE_LEVELS), 80, EQUAL, NONE),
    "rf-detr": Case(
        "rf-detr",
        lambda *_: models.rf_detr("ObjectDetection", [3, 6, 9, 12], 2, 16),
        80,
        [(128, 128), (90, 128)],
        rows=USED,
    ),
    "rf-detr, masks": Case(
        "rf-detr",
        lambda *_: models.rf_detr("InstanceSegmentation", [3, 6, 9, 12], 2, 12),
        80,
        [(96, 96)] * 2,
        rows=USED,
    ),
    "rf-detr base": Case(
        "rf-detr-base",
        lambda *_: models.rf_detr("ObjectDetection", [2, 5, 8, 11], 4, 14),
        80,
        [(112, 112)] * 2,
        rows=USED,
    ),
    "lw-detr": Case("transformers-lw-detr", lambda *_: models.lw_detr(), 80, [(128, 192), (100, 192)], rows=USED),
    "mask2former": Case("transformers-mask2former", lambda *_: dense.mask2former("swin"), 5, [(128, 160), (61, 83)]),
    "mask2former, resnet": Case(
        "transformers-mask2former-resnet", lambda *_: dense.mask2former("resnet"), 5, [(128, 160), (61, 83)]
    ),
    "segformer": Case("transformers-segformer", lambda *_: dense.segformer(), 5, [(61, 96), (64, 83)]),
    "upernet": Case("transformers-upernet", lambda *_: dense.upernet("swin"), 5, [(128, 160)] * 2),
    "upernet, convnext": Case(
        "transformers-upernet-convnext", lambda *_: dense.upernet("convnext"), 5, [(128, 160)] * 2
    ),
    **{
        f"eomt{'-dinov3' if version == 3 else ''} {task}": Case(
            f"transformers-eomt{'-dinov3' if version == 3 else ''}{'' if task == 'panoptic' else f'-{task}'}",
            lambda *_, version=version, task=task: dense.eomt(version, task),
            dense.TASKS[task][0],
            [(64, 64)] * 2,
        )
        for version in (2, 3)
        for task in dense.TASKS
    },
    **{
        f"dpt{hybrid}{kind and '-segmentation'}": Case(
            f"transformers-dpt{hybrid}{kind and '-segmentation'}",
            lambda *_, hybrid=hybrid, kind=kind: dense.dpt(kind or "DPTForDepthEstimation", bool(hybrid)),
            7 if kind else 0,
            [(64, 64)] * 2,
            HALF,
        )
        for hybrid in ("", "-hybrid")
        for kind in ("", "DPTForSemanticSegmentation")
    },
    "depth anything": Case(
        "transformers-depth-anything", lambda *_: dense.depth_anything("relative"), 0, [(98, 126)] * 2
    ),
    "depth anything, metric": Case(
        "transformers-depth-anything-metric", lambda *_: dense.depth_anything("metric"), 0, [(42, 182)] * 2
    ),
}


def compare(model: Any, task: str, outputs: Any, expected: Any, case: Case) -> None:
    if "logits" in outputs and "upernet" not in case.layout and "dpt" not in case.layout:
        return assert_same(outputs, expected, case.rows)
    found = model.heads[task].maps(outputs, case.sizes[0])
    reference = expected.logits if "logits" in expected else expected.predicted_depth[:, None]
    assert reference.std() > 0.03 and (reference != 0).float().mean() > 0.2
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parity("transformers-detr", "transformers-detr-resnet")
@pytest.mark.parity("transformers-detr-panoptic", "transformers-detr-panoptic-resnet")
@pytest.mark.parity("transformers-deformable-detr", "transformers-deformable-detr-resnet")
@pytest.mark.parity("transformers-rtdetr", "transformers-rtdetrv2", "transformers-dfine")
@pytest.mark.parity("transformers-mask2former", "transformers-mask2former-resnet", "transformers-segformer")
@pytest.mark.parity("transformers-upernet", "transformers-upernet-convnext")
@pytest.mark.parity("transformers-eomt", "transformers-eomt-instance", "transformers-eomt-semantic")
@pytest.mark.parity("transformers-eomt-dinov3", "transformers-eomt-dinov3-instance")
@pytest.mark.parity("transformers-eomt-dinov3-semantic")
@pytest.mark.parity("transformers-dpt", "transformers-dpt-hybrid", "transformers-dpt-segmentation")
@pytest.mark.parity("transformers-dpt-hybrid-segmentation")
@pytest.mark.parity("transformers-depth-anything", "transformers-depth-anything-metric")
@pytest.mark.parity("rf-detr", "rf-detr-base", "transformers-lw-detr")
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_folder_of_transformers_computes_the_same(name, tmp_path, request):
    case, batch = CASES[name], padded_batch(CASES[name].sizes)
    if case.layout in RF_DETR:
        request.getfixturevalue("small_rf_detr")
    theirs = case.make(batch)
    theirs.save_pretrained(tmp_path)
    file = load_file(tmp_path / "model.safetensors")
    memory = file if case.layout in RF_DETR else theirs.state_dict()
    layout, metadata = find(case.layout), {"config": json.loads((tmp_path / "config.json").read_text())}
    assert recognise(memory, metadata=metadata) is layout
    done, of_memory = translate(file, layout), translate(memory, layout)
    assert (done.unknown, done.errors, of_memory.unknown, of_memory.errors) == ([], [], [], [])
    assert done.tensors.keys() == of_memory.tensors.keys()
    assert all(torch.equal(x, of_memory.tensors[key]) for key, x in done.tensors.items())
    written_back(file, done, layout)

    found = convert(tmp_path)
    model = found.model.eval()
    assert found.fit.notes[0] == f"Read as {layout.name}."
    assert (model.backbone.mean, model.backbone.std) == case.pixels
    [(task, outputs)] = model(batch).items()
    assert len(model.classes[task]) == case.classes
    compare(model, task, outputs, run(theirs, batch, *case.pixels), case)
    if hasattr(theirs, "auxiliary_head") and "dpt" in name:
        features = model.backbone(model.normalise(batch["images"], batch["padding_mask"]))
        fused = model.heads[task].decode(features, (64, 64))[-2]
        beside = model.heads[task].auxiliary(fused)
        torch.testing.assert_close(beside, theirs.auxiliary_head(fused), atol=1e-4, rtol=1e-4)
    if "masks" in name:
        assert model.sections.heads[task].evaluation.name == "coco_masks"
    if "rf-detr base" in name:
        assert model.config.data.image_size == 560
    if "convnext" in name or case.layout in RF_DETR[:2]:
        write(found, tmp_path / "run")
        export(tmp_path / "run", tmp_path / "hf")
        again = type(theirs).from_pretrained(tmp_path / "hf").eval()
        compare(model, task, outputs, run(again, batch, *case.pixels), case)


# ---- models of ours, written in their layout and the authors' ----


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
SWIN = {"name": "swin", "variant": "nano", "window_size": 4}
VD = {"name": "resnet", "depth": 18, "variant": "vd", "mean": [0, 0, 0], "std": [1, 1, 1]}
HGNET = {"name": "timm", "model": "hgnetv2_b0", "mean": [0, 0, 0], "std": [1, 1, 1]}
VIT = {"name": "vit", "variant": "nano", "patch_size": 14, "image_size": 70, "layer_scale": 1e-5}
VIT |= {"features": [2, 3, 5, 6], "position_resizing": "bicubic"}
DPT = {"name": "vit", "variant": "nano", "image_size": 64, "readout": "project", "feature_norm": False}
DPT |= {"features": [1, 2, 4, 6], "mean": [0.5] * 3, "std": [0.5] * 3}
PANOPTIC_HEAD = {"width": 64, "num_heads": 8, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 40}
SMALL = {"width": 64, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 40}
NARROW = {**SMALL, "width": 32, "dropout": 0.0}
ENCODER = {"width": 16, "feedforward": 24, "expansion": 0.5}
DEFORMABLE = {"name": "deformable_detr", "transformer": SMALL, "num_points": 2, "num_queries": 40}
MASKS = {"num_queries": 7, "pixel_decoder": {"layers": 1, "feedforward": 24}}
MASKS |= {"transformer": {"width": 64, "num_heads": 4, "decoder_layers": 2, "feedforward": 40}}
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
        for backbone in (SWIN, FROZEN)
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
