"""transformers' models with random weights, read from their folders: ours compute the same.

Files have the names of version 4, as on the Hub; models in memory have those of the installed version.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from densevit.layouts import coco_classes, coco_panoptic_classes, find
from densevit_checkpoints.foreign_weights import convert, write
from densevit_checkpoints.key_mapping import translate
from densevit_checkpoints.recognition import recognise
from densevit_checkpoints.transformers_export import export
from tests.checkpoints.layouts import dense_models as dense
from tests.checkpoints.layouts import models
from tests.checkpoints.layouts.models import HALF, IMAGENET, NONE, assert_same, run
from tests.checkpoints.layouts.translations import padded_batch, written_back

pytestmark = pytest.mark.integration

EQUAL = [(64, 96)] * 2  # of whole strides, as transformers' top-down path needs
USED = [one.file_id for one in coco_classes()]
PANOPTIC = [one.file_id for one in coco_panoptic_classes()]


class Case(NamedTuple):
    """make: their model, from a batch. pixels: mean and std. rows: of their logits."""

    layout: str
    make: Callable[..., Any]
    classes: int = 80
    sizes: Sequence[tuple[int, int]] = [(96, 130), (70, 111), (125, 64)]
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
