"""MViTv2: timm's and the official release (facebookresearch/mvit), which numbers blocks across all stages."""

from torch import Tensor

from densevit.interfaces import Change, CheckpointLayout, Line
from densevit_backbones.mvit.inferred_options import describe
from densevit_backbones.mvit.variants import VARIANTS

_HEAD = {"head.*": "the classification head"}
_FRESH = {f"feature_norms.{i}.*": "a norm of the stage's feature map, which a classifier lacks" for i in range(3)}


def _flat(kernel: Tensor) -> Tensor:
    """Removes the time axis of a kernel trained as a video model with one frame."""
    return kernel.squeeze(2) if kernel.ndim == 5 else kernel


_FLAT = Change(_flat, lambda kernel: kernel)


def _block(theirs: str, ours: str) -> list[Line]:
    """The lines of a block without its shortcut projections."""
    names = (("q", "query"), ("k", "key"), ("v", "value"))
    return [
        Line(f"{theirs}.norm1.*", f"{ours}.norm1.*"),
        *(Line(f"{theirs}.attn.qkv.*[{i}/3]", f"{ours}.attention.{name}.*") for i, (_, name) in enumerate(names)),
        *(Line(f"{theirs}.attn.pool_{q}.weight", f"{ours}.attention.pool_{name}.weight", _FLAT) for q, name in names),
        *(Line(f"{theirs}.attn.norm_{q}.*", f"{ours}.attention.pool_{name}.norm.*") for q, name in names),
        Line(f"{theirs}.attn.rel_pos_h", f"{ours}.attention.relative_positions.rows"),
        Line(f"{theirs}.attn.rel_pos_w", f"{ours}.attention.relative_positions.columns"),
        Line(f"{theirs}.attn.proj.*", f"{ours}.attention.output.*"),
        Line(f"{theirs}.norm2.*", f"{ours}.norm2.*"),
        Line(f"{theirs}.mlp.fc1.*", f"{ours}.mlp.expand.*"),
        Line(f"{theirs}.mlp.fc2.*", f"{ours}.mlp.contract.*"),
    ]


_AROUND = (
    Line("cls_token", "class_token"),
    Line("patch_embed.proj.weight", "patch_embed.weight", _FLAT),
    Line("patch_embed.proj.bias", "patch_embed.bias"),
    Line("norm.*", "feature_norms.3.*"),
)
_TIMM = (
    *_AROUND,
    *_block("stages.{s}.blocks.{b}", "stages.{s}.{b}"),
    Line("stages.{s}.blocks.{b}.shortcut_proj_attn.*", "stages.{s}.{b}.shortcut1.*"),
    Line("stages.{s}.blocks.{b}.shortcut_proj_mlp.*", "stages.{s}.{b}.shortcut2.*"),
)


def _official(blocks: tuple[int, ...], shortcut: str) -> tuple[Line, ...]:
    """The lines of the official release. shortcut: our key for their shortcut projection, of attention, or of the MLP
    if it expands the channels."""
    places = [(s, b) for s, count in enumerate(blocks) for b in range(count)]
    lines = [*_AROUND]
    for i, (s, b) in enumerate(places):
        lines += [*_block(f"blocks.{i}", f"stages.{s}.{b}"), Line(f"blocks.{i}.proj.*", f"stages.{s}.{b}.{shortcut}.*")]
    return tuple(lines)


def _layout(name: str, marks: tuple[str, ...], lines: tuple[Line, ...]) -> CheckpointLayout:
    return CheckpointLayout(
        name=name,
        part="backbone",
        marks=marks,
        lines=lines,
        describe=describe,
        no_effect=_HEAD,
        fresh=_FRESH,
    )


# A deeper variant has all keys of a shallower one, so it has more marks.
_DEPTHS = {name: variant.blocks for name, variant in VARIANTS[2].items() if name != "nano"}
_ORDER = sorted(_DEPTHS, key=lambda variant: sum(_DEPTHS[variant]))
_MARKS = (
    "patch_embed.proj.weight",
    "blocks.{i}.attn.qkv.weight",
    "blocks.{i}.mlp.fc1.weight",
    "blocks.{i}.attn.pool_k.*",
)
_LAST = [f"blocks.{sum(_DEPTHS[variant]) - 1}.norm1.weight" for variant in _ORDER]


def _released(variant: str) -> CheckpointLayout:
    marks = (*_MARKS, *_LAST[: _ORDER.index(variant) + 1])
    lines = _official(_DEPTHS[variant], "shortcut2" if VARIANTS[2][variant].widens == "mlp" else "shortcut1")
    return _layout(f"facebook-mvitv2-{variant}", marks, lines)


TIMM = _layout("timm-mvit", ("stages.{s}.blocks.{b}.attn.pool_k.weight", "stages.{s}.blocks.{b}.attn.norm_k.*"), _TIMM)
TINY = _released("tiny")
SMALL = _released("small")
BASE = _released("base")
LARGE = _released("large")
