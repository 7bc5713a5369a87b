"""Published sizes and released files are described and translated completely; relatives are refused.

Tensors have names and shapes only, on the meta device.
"""

import pytest
import torch

from densevit.errors import WeightsError
from densevit.layouts import find, preset_classes
from densevit_checkpoints.key_mapping import describe
from densevit_checkpoints.recognition import recognise
from tests.checkpoints.layouts.translations import loaded, released, whole

pytestmark = pytest.mark.integration

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SWIN_B = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
R34 = {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
PATCHES, BICUBIC = {"patch_size": 16, "image_size": 224}, {"position_resizing": "bicubic"}
DINO = {"patch_size": 14, "image_size": 518, "layer_scale": 1e-5}


def vit(variant, **options):
    return {"name": "vit", "variant": variant, **PATCHES, **options}


def swin(variant, version=1, window=None, shift="per_axis"):
    windows = {} if window is None else {"window_size": window}
    return {"name": "swin", "variant": variant, "version": version, "shift": shift, **windows}


def resnet(depth, **options):
    return {"name": "resnet", "depth": depth, **options}


def mvit(variant, token=False):
    return {"name": "mvit", "variant": variant, "version": 2, "image_size": 224, "class_token": token}


TIMM = {
    "vit_base_r50_s16_384": ("timm-vit", vit("base", stem="resnet", image_size=384)),
    "deit_base_distilled_patch16_384": ("timm-vit", vit("base", distillation_token=True, image_size=384)),
    "vit_giant_patch14_reg4_dinov2": ("timm-vit", vit("giant", **DINO, registers=4, swiglu=True)),
    "resnet50d": ("timm-resnet", resnet(50, variant="d")),
    "swin_base_patch4_window12_384": ("timm-swin", swin("base", window=12)),
    "swinv2_large_window12_192": ("timm-swinv2", swin("large", 2)),  # its window is not determined
    "mvitv2_base_cls": ("timm-mvit", mvit("base", True)),
}
TORCHVISION = {
    "resnet101": ("torchvision-resnet", resnet(101)),
    "wide_resnet50_2": ("torchvision-resnet", resnet(50, groups=1, width_per_group=128)),
    "vit_h_14": ("torchvision-vit", vit("huge", patch_size=14)),
    "swin_v2_b": ("torchvision-swinv2", swin("base", 2, 8)),
}
TRANSFORMERS = {  # model: options of its configuration, layout, section
    "ViTMAEForPreTraining": (LARGE, "transformers-mae", vit("large", **BICUBIC)),
    "DeiTForImageClassificationWithTeacher": (
        {}, "transformers-deit", vit("base", **BICUBIC, distillation_token=True),
    ),
    "Dinov2WithRegistersForImageClassification": (
        {"image_size": 518, "patch_size": 14}, "transformers-dinov2", vit("base", **DINO, registers=4),
    ),
    "Swinv2ForImageClassification": (
        {"image_size": 256, "window_size": 8, **SWIN_B}, "transformers-swinv2", swin("base", 2, None, "both_axes"),
    ),
    "ResNetModel": (R34, "transformers-resnet", resnet(34)),
}  # fmt: skip
RELEASED = {
    "google_R50+ViT-B_16": (
        "google-vit",
        vit("base", stem="resnet", weight_standardization="std", image_size=384, gelu="tanh"),
    ),
    "dinov2_vitg14_reg4_pretrain": ("dinov2", vit("giant", **DINO, registers=4, swiglu=True)),
    "mae_finetuned_vit_base": ("mae", vit("base", feature_norm=False, **BICUBIC)),
    "swin_tiny_patch4_window7_224": ("microsoft-swin", swin("tiny", 1, 7, "both_axes")),
}


def states_of(source, name):
    """The tensors of a model, of transformers' also with the names of files."""
    import timm
    import torchvision
    import transformers

    with torch.device("meta"):
        if source == "released":
            return [released(name)]
        if source == "timm":
            return [timm.create_model(name, pretrained=False).state_dict()]
        if source == "torchvision":
            return [torchvision.models.get_model(name).state_dict()]
        kind = getattr(transformers, name)
        theirs = kind(kind.config_class(**TRANSFORMERS[name][0]))
        from transformers.core_model_loading import revert_weight_conversion

        return [dict(revert_weight_conversion(theirs, theirs.state_dict())), theirs.state_dict()]


ROWS = [
    *(("timm", name, *row) for name, row in TIMM.items()),
    *(("torchvision", name, *row) for name, row in TORCHVISION.items()),
    *(("transformers", name, *row[1:]) for name, row in TRANSFORMERS.items()),
    *(("released", name, *row) for name, row in RELEASED.items()),
]


@pytest.mark.parametrize(("source", "name", "layout", "section"), ROWS, ids=lambda x: x if isinstance(x, str) else "")
def test_backbones_are_described_and_translated_completely(source, name, layout, section):
    for state in states_of(source, name):
        loaded(state, layout, recognised="timm-vit" if name.startswith("mae_finetuned") else "")
        assert describe(state, find(layout)) == {"backbone": section}


# ---- models with a head ----

DPT = {"readout": "project", "feature_norm": False, "position_resizing": "bilinear", "image_size": 384}
DEPTH = {"name": "dpt", "output": "relative", "norm": "none", "width": 256}
HYBRID = vit("base", **DPT, stem="resnet", weight_standardization="std")
DPT_IDLE = r"pretrained\.model\.(norm|head)\.|scratch\.refinenet4\.resConfUnit1\."
SETR = {"name": "setr", "width": 256, "padded": "stretch"}


def setr(image_size, **options):
    plain = {"image_size": image_size, "feature_norm": False, "position_resizing": "bilinear"}
    return vit("large", **plain, **{"features": (10, 15, 20, 24), **options})


HEADS = {  # file: layout, backbone, head, tensors without effect
    "dpt_hybrid-midas": ("dpt-hybrid", HYBRID, DEPTH | {"reassemble_channels": [256, 512, 768, 768]}, DPT_IDLE),
    "setr_naive_cityscapes": (
        "mmseg-setr-naive", setr(768), SETR | {"decoder": "naive", "auxiliary": [1, 2, 3]}, "(?!)",
    ),
    "setr_mla_ade20k": (
        "mmseg-setr-mla", setr(512, features=(6, 12, 18, 24), class_token=False),
        SETR | {"decoder": "mla", "auxiliary": [1, 2, 3, 4], "branch_width": 128}, r"backbone\.cls_token",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_each_tensor_of_a_released_model_is_used_once_or_listed(name):
    layout, backbone, head, without_effect = HEADS[name]
    with torch.device("meta"):
        state, layout = released(name), find(layout)
    assert recognise(state) is layout
    task = "depth" if head["name"] == "dpt" else "segmentation"
    assert describe(state, layout) == {"backbone": backbone, "heads": {task: head}}
    model = whole(state, layout, without_effect)
    if task == "segmentation":
        assert model.heads[task].classes == preset_classes("cityscapes" if "cityscapes" in name else "ade20k")


# ---- relatives ----


@pytest.mark.parametrize(
    ("name", "layout", "facts"),
    [
        ("vit_small_r26_s32_224", "timm-vit", "the first three stages of a ResNet-50"),
        ("mvitv2_huge_cls", "timm-mvit", r"192 channels and \(4, 8, 60, 8\) blocks .* large"),
    ],
)
def test_models_of_other_sizes_are_refused(name, layout, facts):
    import timm

    with torch.device("meta"):
        state = timm.create_model(name, pretrained=False).state_dict()
    with pytest.raises(WeightsError, match=facts):
        describe(state, find(layout))
