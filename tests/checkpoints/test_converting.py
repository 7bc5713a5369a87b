"""The evaluation config of a converted model, and options from config.json and names that tensors do not determine."""

import re
from pathlib import Path

import pytest

from densevit import config as configs
from densevit.layouts import find, segmentation_classes
from densevit_checkpoints.converting import with_settings
from densevit_checkpoints.preprocessing import timm_metadata
from densevit_heads.dpt.checkpoints import KITTI, NYU
from tests.configs.published import with_variants

SETR, DPT, DPT_MAPS = {"name": "setr", "decoder": "naive"}, {"name": "dpt"}, {"name": "dpt_segmentation"}
CITIES, OWN = segmentation_classes(19), segmentation_classes(2, ["road", "tree"])
ADE = {"data.preset": "ade20k", "data.transforms.short_side": 512, "inference.window": 512, "inference.stride": 341}


def value_at(values, key):
    """The value of a nested key, such as data.classes.0."""
    for part in key.split("."):
        values = values[int(part)] if isinstance(values, list | tuple) else values.get(part)
    return values


@pytest.mark.parametrize(
    ("layout", "head", "classes", "expected"),
    [  # of SETR by the windows of its data, of DPT by the paper's code: layout, head, classes, values by key
        ("mmseg-setr-naive", SETR, segmentation_classes(150), ADE),
        (
            "mmseg-setr-naive",
            SETR,
            CITIES,
            {"data.preset": "cityscapes", "inference.window": 768, "data.transforms.short_side": None},
        ),
        (
            "mmseg-setr-naive",
            SETR,
            OWN,
            {"data.classes.0.name": "road", "data.classes.1.name": "tree", "inference.window": 512},
        ),
        (
            "dpt-hybrid",
            {**DPT, **NYU},
            (),
            {"data.preset": "nyu", "heads.depth.evaluation": {"min_depth": 0.001, "max_depth": 10.0, "crop": "eigen"}},
        ),
        (
            "dpt-hybrid",
            {**DPT, **KITTI},
            (),
            {"heads.depth.evaluation": {"min_depth": 0.001, "max_depth": 80.0, "crop": "garg"}},
        ),
        (
            "dpt-segmentation",
            DPT_MAPS,
            segmentation_classes(150),
            {"data.transforms.short_side": 480, "inference.window": None},
        ),
    ],
)
def test_settings_are_those_of_the_layout_s_data(layout, head, classes, expected):
    task = "depth" if head["name"] == "dpt" else "segmentation"
    config = configs.from_mapping(
        with_settings(
            find(layout),
            {"backbone": {"name": "vit", "variant": "nano", "feature_norm": False}, "heads": {task: head}},
            {task: classes},
        )
    )
    configs.check_plugins(config)
    assert config.weights is None and config.heads[task].options == {k: v for k, v in head.items() if k != "name"}
    values = config.model_dump()
    for key, value in expected.items():
        found = value_at(values, key)
        assert {**found, **value} == found if isinstance(value, dict) else found == value, key


LAYOUTS = {  # head, except dinov3's: layout
    "deformable_detr": "deformable-detr",
    "eomt": "eomt",
    "eomt_instance": "eomt-instance",
    "eomt_semantic": "eomt-semantic",
    "mask2former": "mask2former",
    "mask2former_instance": "mask2former-instance",
    "mask2former_semantic": "mask2former-semantic",
    "segformer": "segformer",
    "upernet": "transformers-upernet",
}
PATTERNS = ("coco/deformable_detr_*", "*/eomt_*", "*/mask2former_*", "*/segformer_*", "*/upernet_*")
FILES = [path for pattern in PATTERNS for path in Path("configs").glob(f"{pattern}.yaml")]
PUBLISHED = with_variants(path for path in FILES if "12ep" not in path.stem and "dinov3" not in path.stem)
PUBLISHED = [one for one in PUBLISHED if not re.search("variant=b[1-4]", one.overrides)]  # of SegFormer, the ends


@pytest.mark.parametrize("recipe", PUBLISHED, ids=str)
def test_converted_models_have_the_settings_of_their_recipe(recipe):
    """Also those that only overrides of a recipe give."""
    expected = recipe.load()
    [(key, head)] = expected.heads.items()
    count = {"ade20k": 150, "cityscapes": 19}.get(recipe.path.parent.name, {"detection": 80, "panoptic": 133}.get(key))
    options = {"two_stage": False, **head.options} if head.name == "deformable_detr" else dict(head.options)
    most = options.pop("max_predictions", None)
    sections = {
        "backbone": {"name": expected.backbone.name, **expected.backbone.options},
        "heads": {key: {"name": head.name, **options}},
    }
    config = configs.from_mapping(with_settings(find(LAYOUTS[head.name]), sections, {key: segmentation_classes(count)}))
    for section in ("data", "optim", "trainer", "inference", "seed"):
        assert getattr(config, section) == getattr(expected, section)
    assert config.heads[key].evaluation == head.evaluation
    assert config.heads[key].options.get("max_predictions") == most


def test_swinv2_windows_are_those_of_timm_s_names_and_of_config_json():
    saved = find("timm-swinv2").options.saved
    for architecture, window, before in (
        ("swinv2_base_window12to16_192to256", (16, 16, 16, 8), (12, 12, 12, 6)),
        ("swinv2_base_window12_192", (12, 12, 12, 6), None),
    ):
        options = {"backbone.window_size": window, "backbone.pretrained_window_sizes": before}
        assert saved({}, timm_metadata({"architecture": architecture})) == options
    config = {"model_type": "swinv2", "image_size": 128, "window_size": 8, "pretrained_window_sizes": [4, 4, 4, 2]}
    options = {"backbone.window_size": (8, 8, 8, 4), "backbone.pretrained_window_sizes": (4, 4, 4, 2)}
    config |= {"embed_dim": 32, "num_heads": [1, 2, 4, 8], "patch_size": 4}
    found = find("transformers-swinv2").options.saved({}, {"config": config})
    assert {name: found[name] for name in options} == options
    assert saved({}, timm_metadata({"architecture": "swin_tiny_patch4_window7_224"})) == {}
