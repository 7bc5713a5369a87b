"""Whether lower is better: every metric of every evaluator, in comparisons, boards and tables."""

from collections.abc import Sequence
from pathlib import Path

from densevit.evaluation import tables_file
from densevit.evaluation.metric_order import SKIPPED_IMAGES
from densevit_probes.board_page import ranks, tables
from densevit_probes.board_rows import Row, add_row
from densevit_workbench.benchmarking.benchmark_results import CaseResult
from densevit_workbench.benchmarking.benchmark_tables import markdown
from densevit_workbench.benchmarking.digest import PARTS, digest_of
from densevit_workbench.reports.run_comparison import best_positions
from tests.evaluation.test_metric_order import is_error, metrics


def board_row(name: str, metric: str, score: float, errors: Sequence[str]) -> Row:
    parts = dict.fromkeys(PARTS, "x")
    return Row(name, {metric: [score]}, [metric], [*errors], config={"seed": 0}, parts=parts, digest=digest_of(parts))


def test_comparisons_boards_and_tables_order_every_metric_alike(tmp_path: Path) -> None:
    for number, (evaluator, metric) in enumerate(metrics()):
        board = tmp_path / f"board {number}"
        tables_file.write_tables({"h": evaluator}, tmp_path, {}, {})
        errors, low, arrow = tables_file.read_lower_is_better(tmp_path), is_error(metric), "↑↓"[is_error(metric)]
        assert best_positions([tmp_path] * 2, [{}, {}])(f"h/{metric}", [0.2, 0.4]) == [1 - low], metric
        rows = [board_row(str(score), f"h/{metric}", score, errors or ()) for score in (0.2, 0.4)]
        assert ranks(rows, f"h/{metric}") == ([1, 2] if low else [2, 1]), metric
        for row in rows:
            add_row(board, row)
        assert f"h/{metric} {arrow} |" in tables(board), metric
        training = {"metrics": {f"h/{metric}": 0.2}, "main": [f"h/{metric}"], "lower_is_better": errors}
        setting = {"data": "scenes", "image_size": [8, 8], "batch_size": 8, "initial_weights": "random"}
        result = CaseResult("", "swin", "h", setting | {"evaluated_data": {}}, training=training)
        facts = {"command": "", "densevit": "1.0", "torch": "2.9", "device": "cpu", "threads": 2}
        assert f"h {metric} {arrow} |" in markdown({"case": result}, facts), metric


def test_more_skipped_images_are_worse(tmp_path: Path) -> None:
    tables_file.write_tables({}, tmp_path, {}, {})
    assert best_positions([tmp_path] * 2, [{}, {}])(SKIPPED_IMAGES, [3.0, 5.0]) == [0]
