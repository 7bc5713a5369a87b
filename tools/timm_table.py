"""Writes the table of docs/development/timm.md: runs timm's models, and lists their feature maps and image sizes.

python tools/timm_table.py [MODEL ...]: all families that the page shows, or the rows of some models on the screen.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import timm
import torch

from densevit import DensevitError
from densevit_backbones.timm import Timm

PAGE = Path(__file__).parent.parent / "docs" / "development" / "timm.md"
BEGIN, END = "<!-- table: python tools/timm_table.py -->", "<!-- end of the table -->"
TRIED = 96  # pixels: the built size of models with a fixed size in the test run

FAMILIES = {
    "deit": ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"],
    "deit3": ["deit3_small_patch16_224"],
    "swinv2": ["swinv2_tiny_window8_256"],
    "mvitv2": ["mvitv2_tiny", "mvitv2_base_cls"],
    "pit": ["pit_ti_224"],
    "levit": ["levit_128s", "levit_conv_128s"],
    "cait": ["cait_xxs24_224"],
    "pvt_v2": ["pvt_v2_b0"],
    "tnt": ["tnt_s_patch16_224"],
    "convit": ["convit_tiny"],
    "crossvit": ["crossvit_9_240", "crossvit_tiny_240"],
    "coat": ["coat_lite_tiny", "coat_tiny"],
    "twins": ["twins_pcpvt_small", "twins_svt_small"],
    "xcit": ["xcit_nano_12_p16_224", "xcit_nano_12_p8_224"],
    "beit": ["beit_base_patch16_224"],
    "beitv2": ["beitv2_base_patch16_224"],
    "eva02": ["eva02_tiny_patch14_224"],
    "dinov2": ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"],
    "dinov3": ["vit_small_patch16_dinov3", "convnext_tiny.dinov3_lvd1689m"],
    "mixer": ["mixer_s32_224"],
    "resmlp": ["resmlp_12_224"],
    "gmixer": ["gmixer_12_224"],
    "gmlp": ["gmlp_ti16_224"],
    "poolformer": ["poolformer_s12", "poolformerv2_s12"],
    "metaformer": ["caformer_s18"],
    "convnext": ["convnext_atto", "convnextv2_atto"],
    "efficientnet": ["efficientnet_b0"],
    "nfnet": ["nfnet_l0"],
    "regnet": ["regnetx_002", "regnety_002"],
    "tresnet": ["tresnet_m"],
    "resnet with attention": ["lambda_resnet26t", "lambda_resnet26rpt_256", "halonet26t", "botnet26t_256"],
    "maxvit": ["maxvit_pico_rw_256", "maxvit_tiny_tf_224"],
    "hiera": ["hiera_tiny_224", "hiera_small_abswin_256"],
}
HEADER = (
    "| family | model | channels | strides | image sizes | notes | checkpointing |\n|---|---|---|---|---|---|---|\n"
)


def row(family: str, name: str) -> str:
    """The row of a model: its properties at the size of its weights, after a run on images of two odd sizes."""
    try:
        _run(name)
        with torch.device("meta"):
            backbone = Timm(name)
    except DensevitError as error:
        return f"| {family} | {name} | not possible: {error} | | | | |\n"
    notes = [f"stride {s} resampled" for s, r in zip(backbone.strides, backbone.resampled, strict=True) if r]
    if getattr(backbone.model, "output_fmt", None) in ("NHWC", timm.layers.Format.NHWC):
        notes.append("NHWC inside")
    cells = [
        family,
        f"`{name}`",
        _listed(backbone.channels),
        _listed(backbone.strides),
        _sizes(name, backbone.multiple, backbone.input_size),
        ", ".join(notes),
        "yes" if _checkpoints(name) else "no",
    ]
    return f"| {' | '.join(cells)} |\n"


def _listed(values: Sequence[int]) -> str:
    """`64, 128`; equal values as `4x192`."""
    if len(values) > 1 and len(set(values)) == 1:
        return f"{len(values)}x{values[0]}"
    return ", ".join(map(str, values))


def _run(name: str) -> None:
    """Raises DensevitError if the model violates the interface."""
    backbone = Timm(name, image_size=TRIED).eval()
    for height, width in ((61, 89), (107, 70)):
        with torch.inference_mode():
            features = backbone(torch.randn(1, 3, height, width))
        expected = [
            (c, -(-height // s), -(-width // s)) for c, s in zip(backbone.channels, backbone.strides, strict=True)
        ]
        found = [tuple(x.shape[1:]) for x in features]
        if found != expected or not all(x.isfinite().all() for x in features):
            raise DensevitError(f"at {height}x{width} its maps are {found}, not {expected}, or not finite.")


def _sizes(name: str, multiple: tuple[int, int] | None, fixed: tuple[int, int] | None) -> str:
    if multiple == (1, 1):
        return "any"
    if multiple is not None:
        config = timm.get_pretrained_cfg(name)
        told = config is not None and config.fixed_input_size and multiple[0] > 32
        return f"any, padded to {multiple[0]}" + (" or `image_size`" if told else "")
    assert fixed is not None
    return f"built for {fixed[0]}x{fixed[1]} or `image_size`"


def _checkpoints(name: str) -> bool:
    try:
        with torch.device("meta"):
            Timm(name, checkpointing=True)
    except DensevitError:
        return False
    return True


def main() -> None:
    """Prints the rows of the given models; without models, writes all rows into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    models = parser.parse_args().models
    torch.manual_seed(0)
    lines = []
    for family, names in ({"": models} if models else FAMILIES).items():
        for name in names:
            lines.append(row(family, name))
            print(lines[-1], end="", flush=True)
    if not models:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n\n{HEADER}{''.join(lines)}\n{END}{after}")


if __name__ == "__main__":
    main()
