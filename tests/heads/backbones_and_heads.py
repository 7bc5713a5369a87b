"""Which backbones work with which heads: a training step of each pair, and the tables of docs/choose-a-model.md.

python -m tests.heads.backbones_and_heads: writes the tables.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from densevit import config as configs
from densevit import registry
from densevit.errors import DensevitError, one_line
from densevit.model import DenseModel, build_from_sections
from tests.heads.cases import CASES, CLASSES, batch_of, checked

PAGE = Path("docs/choose-a-model.md")
BEGIN, END = "<!-- tables: python -m tests.heads.backbones_and_heads -->", "<!-- end of the tables -->"
NANO: Mapping[str, Any] = MappingProxyType({"variant": "nano"})
BACKBONES: dict[str, tuple[str, Mapping[str, Any]]] = {  # by name on the page: the plugin and options
    "`swin`": ("swin", {**NANO, "window_size": 4}),
    "`mvit`": ("mvit", NANO),
    "`resnet`": ("resnet", {"depth": 18}),
    "`mit`": ("mit", {}),
    "timm's ConvNeXt": ("timm", {"model": "convnext_atto"}),
    "timm's ViT": ("timm", {"model": "vit_tiny_patch16_224"}),
    "timm's ViT with patches of 14": ("timm", {"model": "vit_small_patch14_reg4_dinov2", "model_args": {"depth": 4}}),
    "`vit`": ("vit", NANO),
    "`windowed_vit`": ("windowed_vit", NANO),
    "`attention_resnet`": ("attention_resnet", {"depth": 26, "width": 8}),
    "`cycle_mlp`": ("cycle_mlp", NANO),
    "`cvt`": ("cvt", NANO),
    "`vision_longformer`": ("vision_longformer", {**NANO, "window_size": 2}),
    "`ceit`": ("ceit", NANO),
    "`deep_vit`": ("deep_vit", NANO),
    "`local_vit`": ("local_vit", NANO),
    "`s2_mlp`": ("s2_mlp", NANO),
    "`gtr`": ("gtr", {"variant": "s"}),
}

YES, NECK = "yes", "with `simple_pyramid`"


def trained(backbone: str, head: str, neck: str | None) -> DenseModel:
    """The model of a pair after the gradients of a step. Raises an error of densevit where they do not fit."""
    plugin, of_backbone = BACKBONES[backbone]
    case = next(case for case in CASES.values() if case.head == head)
    own_neck = None if neck is None else {"name": neck, "width": 16}
    options = {key: value for key, value in case.options.items() if key != "min_stride"}  # of the case's own maps
    heads = {"head": {"name": head, **options, "neck": own_neck}}
    sections = configs.model_sections({"backbone": {"name": plugin, **of_backbone}, "heads": heads}, "test")
    kind = registry.load("heads", head)
    torch.manual_seed(0)
    model = build_from_sections(sections, {"head": () if kind.task == "depth" else CLASSES})
    checked(model.heads["head"])
    batch = batch_of(kind.required_targets, ((64, 96), (64, 64)))
    losses = model.losses_of(model(batch), batch["targets"])
    total = torch.stack([*losses.values()]).sum()
    total.backward()
    assert total.isfinite() and any(p.grad is not None and p.grad.any() for p in model.backbone.parameters())
    return model


def outcome(backbone: str, head: str) -> str:
    """`YES`, `NECK`, or why the pair is refused."""
    refused = ""
    for neck, works in ((None, YES), ("simple_pyramid", NECK)):
        try:
            trained(backbone, head, neck)
        except (DensevitError, ValueError) as error:
            refused = refused or reason(error)
        else:
            return works
    return refused


def reason(error: Exception) -> str:
    """The reason of a refusal, without the names of the classes and without the fix."""
    text = one_line(error).partition(" Fix:")[0].rstrip(".")
    text = re.sub(r"^(?:heads\.head(?::? \(\w+\)|:)? ?|The head '\w+' )", "The head ", text)
    return re.sub(r"backbone [A-Z]\w+", "this backbone", text)


def walk(backbones: Iterable[str] = BACKBONES) -> dict[str, dict[str, str]]:
    """The outcome of each pair, by head and backbone."""
    heads = sorted({case.head for case in CASES.values()})
    return {head: {backbone: outcome(backbone, head) for backbone in backbones} for head in heads}


def tables(outcomes: Mapping[str, Mapping[str, str]]) -> str:
    """The table of outcomes, in which equal rows and equal columns are one, and the reasons of refusals."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for backbone in next(iter(outcomes.values())):
        columns.setdefault(tuple(row[backbone] for row in outcomes.values()), []).append(backbone)
    rows: dict[tuple[str, ...], list[str]] = {}
    for head, row in outcomes.items():
        rows.setdefault(tuple(row[group[0]] for group in columns.values()), []).append(f"`{head}`")
    reasons = list(dict.fromkeys(cell for row in rows for cell in row if cell not in (YES, NECK)))
    lines = [f"| | {' | '.join(map(', '.join, columns.values()))} |", f"|{'---|' * (len(columns) + 1)}"]
    for row, heads in sorted(rows.items(), key=lambda pair: -len(pair[1])):
        cells = [cell if cell in (YES, NECK) else f"refused ({reasons.index(cell) + 1})" for cell in row]
        lines.append(f"| {', '.join(heads)} | {' | '.join(cells)} |")
    notes = [textwrap.fill(f"{i}. {text}.", 120, subsequent_indent="   ") for i, text in enumerate(reasons, 1)]
    return "\n".join([*lines, "", "Refused:", "", *notes])


def main() -> None:
    """Writes the tables into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(walk())}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
