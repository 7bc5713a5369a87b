"""Writes the foundation table of docs/development/timm.md: builds each backbone, trains a step per head, exports it.

python tools/foundation_table.py [BACKBONE ...]: the page's table, or the rows of some backbones on the screen. Models
have timm's structure with few and narrow blocks, and random weights.
"""

import argparse
import contextlib
import io
import math
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch

import densevit
from densevit import config as configs
from densevit.config import Config
from densevit.data.build import build_data
from densevit.errors import DensevitError
from densevit.model.parameter_groups import parameter_groups, parameter_rates
from densevit.weights.building import build_model

PAGE = Path(__file__).parent.parent / "docs" / "development" / "timm.md"
BEGIN, END = "<!-- table: python tools/foundation_table.py -->", "<!-- end of the foundation table -->"
SIDE = 64  # pixels of the images


class Foundation(NamedTuple):
    """A backbone: timm's name with the tag of its weights, and arguments that make it small."""

    model: str
    model_args: Mapping[str, Any]
    options: Mapping[str, Any] = {}


_VIT = {"depth": 4, "embed_dim": 128, "num_heads": 2}
_CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}
FOUNDATION = {
    "DINOv2": Foundation("vit_small_patch14_dinov2.lvd142m", _VIT),
    "DINOv2 with registers": Foundation("vit_small_patch14_reg4_dinov2.lvd142m", _VIT),
    "DINOv3, ViT": Foundation("vit_small_patch16_dinov3.lvd1689m", _VIT),
    "DINOv3, ConvNeXt": Foundation("convnext_tiny.dinov3_lvd1689m", _CONVNEXT),
    "LingBot-Vision": Foundation("vit_small_patch16_lingbot.robbyant", _VIT),
    "TIPSv2": Foundation("vit_base_patch14_reg1_tipsv2.webli", _VIT),
    "SigLIP 2": Foundation("vit_base_patch16_siglip_gap_224.v2_webli", _VIT),
    "PE, spatial": Foundation("vit_pe_spatial_tiny_patch16_512.fb", _VIT),
    "PE, core": Foundation("vit_pe_core_tiny_patch16_384.fb", _VIT),
    "EVA-02": Foundation("eva02_tiny_patch14_224.mim_in22k", _VIT),
    "ConvNeXt": Foundation("convnext_tiny.fb_in22k", _CONVNEXT),
    "ConvNeXt V2": Foundation("convnextv2_tiny.fcmae_ft_in22k_in1k", _CONVNEXT),
    "MobileNetV4, convolutions": Foundation("mobilenetv4_conv_small.e2400_r224_in1k", {}),
    "MobileNetV4, hybrid": Foundation("mobilenetv4_hybrid_medium.e500_r224_in1k", {}),
    "FastViT": Foundation("fastvit_t8.apple_in1k", {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 128)}),
    "Hiera": Foundation(
        "hiera_tiny_224.mae",
        {"embed_dim": 48, "num_heads": 1, "stages": (1, 1, 2, 1)},
        {"image_size": SIDE},
    ),
    "Hiera of SAM 2": Foundation("sam2_hiera_tiny.fb_r896_2pt1", {"stages": (1, 1, 2, 1), "global_att_blocks": (3,)}),
}
_TRANSFORMER = {"encoder_layers": 1, "decoder_layers": 1, "feedforward": 32}
HEADS: dict[str, dict[str, Any]] = {
    "setr": {"name": "setr", "width": 16, "auxiliary": [], "norm": "group"},
    "mask2former": {
        "name": "mask2former",
        "num_queries": 6,
        "transformer": {"width": 32, "num_heads": 2, "decoder_layers": 1, "feedforward": 32},
        "pixel_decoder": {"layers": 1, "feedforward": 32},
        "num_points": 64,
    },
    "dpt": {"name": "dpt", "output": "sigmoid", "width": 16},
    "deformable_detr": {
        "name": "deformable_detr",
        "num_queries": 6,
        "transformer": {**_TRANSFORMER, "width": 32, "num_heads": 2},
    },
    "one_stage": {"name": "one_stage", "width": 16, "fusion_blocks": 1},
}
PYRAMID_HEADS = ("mask2former", "deformable_detr", "one_stage")  # a plain transformer needs a neck for these


def config_of(backbone: str, head: str, **of_backbone: Any) -> Config:
    """A small training of a backbone under a head on rendered scenes. of_backbone: such as freeze=True."""
    found, section = FOUNDATION[backbone], dict(HEADS[head])
    stride = 14 if "patch14" in found.model else 16
    if is_plain(found.model) and head in PYRAMID_HEADS:
        strides = (stride // 2, stride, 2 * stride) if stride == 14 else (4, 8, 16, 32)
        section["neck"] = {"name": "simple_pyramid", "width": 16, "pyramid_strides": strides}
        section |= {"stride": strides[0]} if head == "one_stage" and stride == 14 else {}
    backbone_section = {
        "name": "timm",
        "model": found.model,
        "model_args": dict(found.model_args),
        "feature_norm": True,
        **found.options,
        **of_backbone,
    }
    values = {
        "backbone": backbone_section,
        "heads": {head: section},
        "data": {"name": "scenes", "image_size": SIDE, "batch_size": 2, "num_workers": 0}
        | {"train_length": 2, "val_length": 1, "panoptic": head == "mask2former"},
        "optim": {"lr": 1e-3, "layer_decay": 1.0 if of_backbone.get("freeze") else 0.8},
        "trainer": {"max_steps": 1, "precision": "32", "accelerator": "cpu", "log_every": 1},
    }
    return configs.from_mapping(values)


def is_plain(model: str) -> bool:
    """Whether all maps of timm's model have one stride."""
    return not any(name in model for name in ("convnext", "mobilenet", "fastvit", "hiera"))


def step(backbone: str, head: str, frozen: bool) -> str:
    """Builds the model, computes a loss, and makes one optimiser step, with layer decay unless frozen. Returns what is
    wrong, or ""."""
    config = config_of(backbone, head, **({"freeze": True} if frozen else {}))
    data = build_data(config)
    torch.manual_seed(0)
    model = build_model(config, data.train).train()
    batch = next(iter(data.padded_to(model.multiple).train_loader()))
    before = {name: x.clone() for name, x in model.backbone.state_dict().items()}
    rates = parameter_rates(model, 1e-3, layer_decay=config.optim.layer_decay)
    losses = model.loss(model(batch), batch["targets"])
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    torch.optim.AdamW(parameter_groups(rates)).step()
    changed = [name for name, x in model.backbone.state_dict().items() if not torch.equal(x, before[name])]
    if not math.isfinite(total.item()):
        return "the loss is not finite"
    return f"frozen tensors change: {changed[0]}" if frozen and changed else "" if frozen or changed else "no change"


def exports(backbone: str) -> bool:
    """Exports the backbone with SETR, compared with the model on several sizes. Returns whether it works."""
    config = config_of(backbone, "setr")
    model = build_model(config, build_data(config).train).eval()
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            densevit.export(model, Path(folder) / "model.pt2", quiet=True)
    except DensevitError:
        return False
    return True


def row(backbone: str) -> str:
    """The row of a backbone."""
    model = FOUNDATION[backbone].model
    with torch.device("meta"):
        built: Any = densevit.create_backbone("timm", model=model, feature_norm=True)
    config = timm.get_pretrained_cfg(model)
    licence = (config and config.license) or "not stated"
    cells = [backbone, f"`{model}`", licence, ", ".join(map(str, sorted(set(built.strides))))]
    cells += ["final norm" if built.final_norm else "new norms", str(len(built.parameter_depths()))]
    for head in HEADS:
        wrong = step(backbone, head, frozen=False) or step(backbone, head, frozen=True)
        cells.append(wrong or ("pyramid" if is_plain(model) and head in PYRAMID_HEADS else "yes"))
    return f"| {' | '.join([*cells, 'yes' if exports(backbone) else 'no'])} |\n"


def header() -> str:
    """The first two lines of the table."""
    columns = ["backbone", "smallest model", "licence", "strides", "`feature_norm`", "depths", *HEADS, "export"]
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"


def main() -> None:
    """Prints the rows of the given backbones; without, writes all rows into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", metavar="BACKBONE", help=f"of {', '.join(FOUNDATION)}")
    backbones = parser.parse_args().backbones
    warnings.simplefilter("ignore")
    lines = []
    for backbone in backbones or FOUNDATION:
        lines.append(row(backbone))
        print(lines[-1], end="", flush=True)
    if not backbones:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n\n{header()}{''.join(lines)}\n{END}{after}")


if __name__ == "__main__":
    main()
