"""Smaller models of published recipes train one step on generated files of their layouts, and are evaluated."""

from pathlib import Path

import pytest

from densevit import config as configs
from densevit.layouts import coco_classes
from densevit.training.loop.evaluator_factory import build_evaluators
from tests.configs.generated import make_coco, make_depth_maps, make_label_maps
from tests.configs.published import Step, one_step
from tests.configs.test_published import RECIPES

SMALL_DETR = ("width=32", "encoder_layers=1", "decoder_layers=2", "feedforward=64")
SMALL_MASKS = ("transformer.width=32", "transformer.decoder_layers=2", "transformer.feedforward=64",
               "pixel_decoder.layers=1", "num_points=64")  # fmt: skip
SMALL_VIT = ("backbone.variant=nano", "trainer.accelerator=cpu", "trainer.precision=32")
DC5 = "backbone.dilation=true data.batch_size=1 trainer.accumulate=64"
SWIN = "backbone.name=swin backbone.variant="
SWIN_L = "backbone.weights=timm:swin_large_patch4_window12_384.ms_in22k"


def detr(size: str, backbone: str, *options: str) -> list[str]:
    """Overrides of a small detector."""
    head = [f"heads.detection.{option}" for option in (*(f"transformer.{one}" for one in SMALL_DETR), *options)]
    return [backbone, f"data.image_size={size}", *head]


def masks(head: str, *options: str) -> list[str]:
    return ["data.image_size=64", "data.transforms.short_side=64", *(f"heads.{head}.{one}" for one in SMALL_MASKS),
            *options]  # fmt: skip


RTDETR = detr("128", "data.multi_scale=null", "encoder.width=16", "encoder.feedforward=16")
DFINE = ["heads.detection.encoder.width=32", "heads.detection.transformer.width=32", "backbone.model=hgnetv2_b0",
         "data.image_size=64"]  # fmt: skip
RF_DETR = [
    "weights=null",
    "backbone.variant=nano",
    "backbone.features=[1, 2, 3, 6]",
    "data.image_size=64",
    "data.multi_scale=[64, 96]",
    "heads.detection.neck.width=32",
    *(f"heads.detection.transformer.{option}" for option in SMALL_DETR if "encoder" not in option),
]
GTR = [
    "weights=null",
    "data.image_size=64",
    "heads.detection.neck.width=32",
    *(f"heads.detection.transformer.{option}" for option in SMALL_DETR if "encoder" not in option),
]
PANOPTIC = [f"heads.panoptic.detr.transformer.{option}" for option in SMALL_DETR]
DPT = [*SMALL_VIT, "heads.depth.width=32"]
SMALLER: dict[str, list[str]] = {
    f"coco/detr_r50 {DC5}": detr("[96, 160]", "backbone.depth=50"),
    "coco/deformable_detr_r50_two_stage": detr("[96, 160]", "backbone.depth=18"),
    "coco/dino_r50_12ep": detr("[96, 160]", "backbone.depth=18"),
    f"coco/dino_r50_12ep {SWIN}large {SWIN_L} backbone.window_size=12": detr("[96, 160]", "backbone.variant=nano"),
    "coco/rtdetr_r50": RTDETR,
    "coco/dfine_n": DFINE,
    "coco/rtdetrv4_s": [*DFINE, "data.image_size=128", "data.multi_scale=null",
                        "method.teacher={name: vit, variant: nano, weights: random}"],
    "coco/rf_detr_nano": RF_DETR,
    "coco/gtr_s": GTR,
    "coco/detr_panoptic_r50": [*PANOPTIC, "backbone.depth=18", "data.image_size=[64, 128]"],
    "coco/mask2former_r50": masks("detection", "backbone.depth=18"),
    "ade20k/mask2former_swin_tiny": masks("segmentation", "backbone.variant=nano"),
    "nyu/dpt_hybrid": [*DPT, "data.image_size=[96, 128]"],
    "kitti/dpt_hybrid": [*DPT, "data.image_size=[64, 128]"],
}  # fmt: skip


def step_of(name: str, root: Path, *overrides: str) -> Step:
    folder = name.partition("/")[0]
    if folder == "coco":
        make_coco(root, (60, 90))
    elif folder in ("nyu", "kitti"):
        make_depth_maps(folder, root, {"nyu": [(480, 640)], "kitti": [(94, 311)]}[folder])
    else:
        make_label_maps(folder, root, (256, 384))
    batch = 2 if name.startswith(("coco/rtdetr", "coco/dfine")) else 1
    more = [f"data.root={root}", "data.num_workers=0", f"data.batch_size={batch}", *overrides]
    return one_step(RECIPES[name].load(*SMALLER[name], *more), 64)


@pytest.mark.integration
@pytest.mark.parametrize("name", SMALLER)
def test_smaller_recipe_trains_one_step_and_is_evaluated(name: str, tmp_path: Path) -> None:
    step = step_of(name, tmp_path)
    frozen = {key for key, parameter in step.model.named_parameters() if not parameter.requires_grad}
    if name.startswith(("coco/de", "coco/dino")) and "swin" not in name and "panoptic" not in name:
        assert all(key.startswith(("backbone.conv1", "backbone.layer1", "backbone.bn1")) for key in frozen) and frozen
        assert step.model.backbone.strides[-1] == (16 if DC5 in name else 32)
        assert [one.file_id for one in step.data.classes["detection"]] == [one.file_id for one in coco_classes()]
    if name == "coco/detr_panoptic_r50":
        assert all(
            key.startswith(("heads.panoptic.attention_maps", "heads.panoptic.mask_head")) for key in step.changed
        )
    if name.startswith("coco/rtdetr"):
        assert step.batch["images"].shape[-2:] == (128, 128) and not step.batch["padding_mask"].any()
    if name.endswith("dpt_hybrid"):
        known = step.batch["targets"][0]["depth"]
        low, high = {"nyu": (0.5, 3.7), "kitti": (8.0, 52.0)}[name.partition("/")[0]]
        assert low < known[known > 0].min() and known.max() < high
    [evaluator] = build_evaluators(step.model, step.data.val).values()
    batch = next(iter(step.data.val_loader()))
    [found] = step.model.eval().predictions(step.model(batch), batch["targets"]).values()
    evaluator.update(found, [target["truth"] for target in batch["targets"]])
    assert evaluator.main in evaluator.metrics()


SECTIONS = [file.stem for file in Path("configs/data").glob("*.yaml") if "\nname: label_maps\n" in file.read_text()]


@pytest.mark.parametrize("section", SECTIONS)
def test_data_section_has_the_preset_of_its_name(section: str) -> None:
    """tests/data/datasets/test_label_presets.py reads the official layout of each preset."""
    own = ["data.classes=[road, tree, car]"] if section == "label_maps" else []
    config = configs.load("configs/scenes/setr_swin.yaml", [f"data=configs/data/{section}.yaml", *own])
    configs.check_plugins(config)
    assert config.data.options.get("preset", "label_maps") == section
