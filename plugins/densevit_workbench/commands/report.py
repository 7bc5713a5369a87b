"""Writes a page about one run, a page that compares runs, or a table of runs for a paper."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

EXAMPLES = """examples:
  densevit report runs/detr_swin
  densevit report runs/detr_swin runs/scenes-detr_vit --out comparison.html
  densevit report runs/detr_swin/evaluations/coco-val runs/scenes-detr_vit/evaluations/coco-val
  densevit report runs/*-coco-* --table tex --out table.tex"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders of runs or evaluations")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="the page; by default RUN/report.html, for several ./comparison.html; or the table, by default on stdout",
    )
    parser.add_argument(
        "--table",
        choices=("md", "tex"),
        help="in place of a page, a table in Markdown or LaTeX (booktabs): mean and standard deviation over seeds",
    )


def run(args: Namespace) -> int:
    if args.table:
        return _table(args)
    from densevit_workbench.reports.report_page import report

    path = report(args.runs, args.out).path
    args.output.show(f"report: {path}")
    args.output.result({"report": str(path), "bytes": path.stat().st_size})
    return 0


def _table(args: Namespace) -> int:
    from densevit_workbench.reports.report_page import check_file, run_folders
    from densevit_workbench.reports.runs_table import runs_table

    if args.out is not None:
        check_file(args.out, args.out / f"table.{args.table}")
    table = runs_table(run_folders(args.runs), args.table)
    for line in table.unfinished:
        args.output.problem(line)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(f"{table.text}\n", encoding="utf-8", errors="backslashreplace")
    args.output.show(table.text if args.out is None else f"table: {args.out}")
    args.output.result({"table": table.text, "rows": table.rows, "unfinished": table.unfinished})
    return 0
