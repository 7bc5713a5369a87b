"""Scores the features of frozen backbones, beside controls.

Encodes a data set once per backbone, and prints k-NN, linear, retrieval, correspondence and normals of a protocol, with
95 % bootstrap intervals. Controls: random weights, and the pixels themselves.
"""

import json
import random
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densevit.errors import Argument, ConfigError, DensevitError, counted

if TYPE_CHECKING:
    from rich.table import Table

    from densevit_probes.probing import ProbeResult

EXAMPLES = """examples:
  densevit probe efficientnet_lite0 my_package:MyNet --protocol quick
  densevit probe efficientnet_lite0 --protocol quick_segmentation data.preset=camvid data.root=~/camvid
  densevit probe dinov2_small mine.yaml --protocol capi data.root=~/ADEChallengeData2016 --board board
  densevit probe vit.yaml --protocol quick_segmentation --necks none,bilinear,naf.yaml data.root=~/camvid
  densevit probe --verify board data.root=~/ADEChallengeData2016
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "backbones",
        metavar="BACKBONE",
        nargs="*",
        help="a shipped section (dinov2_small), a section file, a plugin or module:Class; and overrides of the "
        "protocol: section.key=value",
    )
    parser.add_argument("--protocol", metavar="NAME", help="configs/probe/NAME.yaml: quick, capi, ...; or a file")
    parser.add_argument(
        "--labels",
        metavar="PERCENT",
        type=_percents,
        default=[],
        help="label efficiency: fits the probes to these shares of the training images, too, as in 1,10,100",
    )
    parser.add_argument("--robustness", action="store_true", help="scores corrupted images, too, of three severities")
    parser.add_argument("--instances", action="store_true", help="scores whether features tell objects apart")
    parser.add_argument(
        "--noise", action="store_true", help="marks scores (!) that do not get worse as noise on the features grows"
    )
    parser.add_argument(
        "--tokens",
        metavar="N",
        type=int,
        help="N x N tokens for every backbone, by the image size; needs data.transforms={name: resize, stretch: true}",
    )
    parser.add_argument(
        "--sets",
        metavar="FILES",
        type=lambda text: text.split(","),
        default=[],
        help="data sections, as in a.yaml,b.yaml: the mean and the mean rank over data sets",
    )
    parser.add_argument(
        "--necks",
        metavar="NECKS",
        type=lambda text: text.split(","),
        help="each backbone with each of these necks below the heads: none, names and section files",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: an accelerator if there is one)")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="the results as JSON (default: runs/probe-PROTOCOL.json)"
    )
    parser.add_argument(
        "--board",
        metavar="DIR",
        type=Path,
        help="also adds rows to DIR/PROTOCOL/, with files for the Hugging Face hub, and writes the page DIR.md",
    )
    parser.add_argument(
        "--verify", metavar="DIR", type=Path, help="runs rows of a board again, drawn at random, and nothing else"
    )
    parser.add_argument("--rows", type=int, default=3, help="number of rows to verify (default: 3)")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="with --verify: imports the classes that rows name as module:Class, whose code runs",
    )
    parser.add_argument("--seed", type=int, help="of the rows to verify (default: another one each time, printed)")


def run(args: Namespace) -> int:
    from densevit.atomic_io import check_writable, replaced_file
    from densevit_probes.probing import probe
    from densevit_probes.protocols import Protocol, backbone_section, with_controls

    if args.sets:
        from densevit_probes.sets import over_sets  # late: other commands do not need it
    overrides = [word for word in args.backbones if isinstance(word, Argument)]
    if args.verify is not None:
        return _verify(args, overrides)
    if args.board is not None and not args.backbones:
        from densevit_probes.board_page import write_page

        args.output.show(str(write_page(args.board)))
        return 0
    if args.protocol is None or len(args.backbones) == len(overrides):
        raise ConfigError("probe: backbones and a protocol are missing, as in: densevit probe swin --protocol quick.")
    protocols = {Path(file).stem: Protocol.read(args.protocol, [f"data={file}", *overrides]) for file in args.sets}
    if len(protocols) < len(args.sets):
        raise ConfigError(f"--sets: two of {', '.join(args.sets)} have the same name. Fix: name each file differently.")
    protocols = protocols or {"": Protocol.read(args.protocol, overrides)}
    named = dict(backbone_section(word) for word in args.backbones if word not in overrides)
    out: Path = args.out or Path("runs") / f"probe-{Path(args.protocol).stem}.json"
    check_writable(out.parent, fix="Fix: name a file with --out FILE.")
    out.parent.mkdir(parents=True, exist_ok=True)
    results: list[ProbeResult] = []
    by_set: dict[str, list[ProbeResult]] = {label: [] for label in protocols}
    failed: dict[str, str] = {}
    columns = {key: getattr(args, key) for key in ("labels", "robustness", "instances", "noise", "tokens")}
    columns["facts"] = args.board is not None
    jobs = {name: (section, protocols) for name, section in with_controls(named).items()}
    for name in named if args.necks else ():
        section, plain = jobs.pop(name)
        for neck in args.necks:
            jobs[f"{name}, {Path(neck).stem}"] = section, {x: protocol.with_neck(neck) for x, protocol in plain.items()}
    content: dict[str, Any] = {"command": args.command, "densevit": version("densevit"), "torch": version("torch")}
    for name, (section, by_label) in args.output.track(jobs.items(), "Probing", len(jobs)):
        for label, protocol in by_label.items():
            try:
                by_set[label].append(replace(probe(section, protocol, device=args.device, **columns), backbone=name))
            except DensevitError as error:
                failed[f"{name} on {label}" if label else name] = str(error)
                args.output.problem(f"{[*failed][-1]}: {error}")
                continue
            if args.board is not None:
                from densevit_probes.board_rows import add_row, row_of

                add_row(args.board / protocol.name, row_of(by_set[label][-1]))
        results = over_sets(by_set) if args.sets else by_set[""]
        content |= {"results": [asdict(result) for result in results], "failed": failed}
        with replaced_file(out) as temporary:
            temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    if results and args.board is not None:
        from densevit_probes.board_page import write_page

        write_page(args.board)
    if results:
        marked = "! no measure of the features: the score does not get worse as noise on them grows"
        args.output.show(_table(results), *([marked] if any(x.insensitive for x in results) else []), str(out))
    args.output.result({**content, "file": str(out)})
    return 1 if failed else 0


def _percents(text: str) -> list[float]:
    try:
        return [float(percent) for percent in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a list of per cent such as 1,10,100.") from None


def _verify(args: Namespace, overrides: "Sequence[Argument]") -> int:
    from densevit_probes.board_verification import verify

    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    lines = [*verify(args.verify, args.rows, seed, overrides, args.device, args.trust)]
    args.output.show(*(line for line, _ in lines), f"{counted(len(lines), 'row')}, drawn with --seed {seed}")
    args.output.result({"seed": seed, "rows": [{"row": line, "holds": holds} for line, holds in lines]})
    return 0 if all(holds for _, holds in lines) else 1


def _table(results: "Sequence[ProbeResult]") -> "Table":
    """A row per main metric and backbone, with its interval."""
    from densevit.evaluation.metric_order import sign
    from densevit.terminal import table

    rows, errors = [], results[0].error_metrics
    for metric in results[0].main:
        score = f"{metric} {'↓' if sign(metric, errors) < 0 else '↑'}"
        for result in results:
            value, bounds = result.metrics[metric], result.intervals.get(metric, ())
            shown = f"{'-' if value is None else f'{value:.3f}'}{' !' if metric in result.insensitive else ''}"
            rows.append([score, result.backbone, shown, " to ".join(f"{x:.3f}" for x in bounds)])
            score = ""
    return table(rows, ["score", "backbone", "value", "95 % interval"], right=(2, 3))
