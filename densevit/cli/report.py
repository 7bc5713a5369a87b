"""Writes a page about a run, or one that compares several."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

EXAMPLES = """examples:
  densevit report runs/detr_swin
  densevit report runs/detr_swin runs/scenes-detr_vit --out comparison.html
  densevit report runs/detr_swin/evaluations/coco-val runs/scenes-detr_vit/evaluations/coco-val"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders of runs or evaluations")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="the page; by default RUN/report.html, for several ./comparison.html"
    )


def run(args: Namespace) -> int:
    from densevit.visualization.pages import report

    path = report(args.runs, args.out).path
    args.output.show(f"report: {path}")
    args.output.result({"report": str(path), "bytes": path.stat().st_size})
    return 0
