"""Scores the features of frozen backbones, beside controls.

Encodes a data set once per backbone, and prints k-NN, linear, retrieval, correspondence and normals of a protocol, with
95 % bootstrap intervals. Controls: random weights, and the pixels themselves.
"""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densevit.errors import Argument, DensevitError

if TYPE_CHECKING:
    from rich.table import Table

    from densevit_probes.probing import ProbeResult

EXAMPLES = """examples:
  densevit probe efficientnet_lite0 my_package:MyNet --protocol quick
  densevit probe efficientnet_lite0 --protocol quick_segmentation data.preset=camvid data.root=~/camvid
  densevit probe dinov2_small mine.yaml --protocol capi data.root=~/ADEChallengeData2016
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "backbones",
        metavar="BACKBONE",
        nargs="+",
        help="a shipped section (dinov2_small), a section file, a plugin or module:Class; and overrides of the "
        "protocol: section.key=value",
    )
    parser.add_argument(
        "--protocol", required=True, metavar="NAME", help="configs/probe/NAME.yaml: quick, capi, ...; or a file"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: an accelerator if there is one)")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="the results as JSON (default: runs/probe-PROTOCOL.json)"
    )


def run(args: Namespace) -> int:
    from densevit.atomic_io import check_writable, replaced_file
    from densevit_probes.probing import probe
    from densevit_probes.protocols import Protocol, backbone_section, with_controls

    overrides = [word for word in args.backbones if isinstance(word, Argument)]
    protocol = Protocol.read(args.protocol, overrides)
    named = dict(backbone_section(word) for word in args.backbones if word not in overrides)
    out: Path = args.out or Path("runs") / f"probe-{protocol.name}.json"
    check_writable(out.parent, fix="Fix: name a file with --out FILE.")
    out.parent.mkdir(parents=True, exist_ok=True)
    results: list[ProbeResult] = []
    sections = with_controls(named)
    content: dict[str, Any] = {"command": args.command, "densevit": version("densevit"), "torch": version("torch")}
    for name, section in args.output.track(sections.items(), "Probing", len(sections)):
        try:
            results.append(replace(probe(section, protocol, device=args.device), backbone=name))
        except DensevitError as error:
            args.output.problem(f"{name}: {error}")
            continue
        content["results"] = [asdict(result) for result in results]
        with replaced_file(out) as temporary:
            temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    if results:
        args.output.show(_table(results), str(out))
    args.output.result({**content, "file": str(out)})
    return 0 if len(results) == len(sections) else 1


def _table(results: "Sequence[ProbeResult]") -> "Table":
    """A row per main metric and backbone, with its interval."""
    from densevit.evaluation.metric_order import sign
    from densevit.terminal import table

    rows, errors = [], results[0].error_metrics
    for metric in results[0].main:
        score = f"{metric} {'↓' if sign(metric, errors) < 0 else '↑'}"
        for result in results:
            value, bounds = result.metrics[metric], result.intervals.get(metric, ())
            shown = [f"{x:.3f}" for x in (value, *bounds) if x is not None]
            rows.append([score, result.backbone, shown[0] if shown else "-", " to ".join(shown[1:])])
            score = ""
    return table(rows, ["score", "backbone", "value", "95 % interval"], right=(2, 3))
