"""The board: digests, ranks, files, its page, and rows that are run again."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.cli import main
from densevit.data.datasets.label_maps import LabelMaps
from densevit.errors import DataError
from densevit.evaluation.miou import SemanticSegmentation
from densevit_workbench.benchmarking.board_page import ranks, tables, write_page
from densevit_workbench.benchmarking.board_rows import TEXTS, Row, read_rows, write_rows
from densevit_workbench.benchmarking.cases import cases_of_protocol
from densevit_workbench.benchmarking.digest import PARTS, differing, digest_of, parts_of, protocol_of

BOARD = Path(__file__).parents[3] / "docs" / "board"
PROTOCOL = "benchmark/protocol"
PARTS_HERE = dict.fromkeys(PARTS, "x") | {"tokens": "4x4"}


def row(name: str, *scores: tuple[float, float, float], lower: str = "", **texts: str) -> Row:
    names = [f"s/m{n}" for n in range(len(scores))]
    values = dict.fromkeys(TEXTS, "") | PARTS_HERE | {"main": " ".join(names), "images": "8", "training": "frozen"}
    values |= {"backbone": name, "source": "measured", "command": "densevit benchmark", "lower_is_better": lower}
    values |= texts
    values["digest"] = texts.get("digest") or digest_of(values)
    return Row(values, dict(zip(names, scores, strict=True)))


def test_rows_with_overlapping_intervals_share_a_rank_also_through_others():
    rows = [row("d", (1, 0.5, 1.5)), row("a", (9, 8, 10)), row("c", (6, 5, 7)), row("b", (7.5, 6.5, 8.5))]
    assert ranks(rows, "s/m0") == [4, 1, 1, 1]
    errors = [row(r.texts["backbone"], r.scores["s/m0"], lower="s/m0") for r in rows]
    assert ranks(errors, "s/m0") == [1, 2, 2, 2]
    points = [row("a", (1, float("nan"), float("nan"))), row("b", (2, float("nan"), float("nan")))]
    assert ranks(points, "s/m0") == [2, 1]


def test_another_digest_stands_apart_with_what_differs(tmp_path):
    rows = [row("a", (1, 0, 2)), row("b", (2, 1, 3)), row("large", (9, 9, 9), tokens="16x16")]
    write_rows(tmp_path / "p.csv", rows)
    page = tables(tmp_path)
    assert "| b | 1. 2.000 (1.000 to 3.000) | 4x4 of" in page
    assert "- large: s/m0 9.000; tokens: 16x16, not 4x4" in page and "| large" not in page
    assert write_page(tmp_path).read_text().count("## p") == 1


@pytest.mark.parametrize("header", [True, False])
def test_a_file_without_rows_is_a_heading_with_a_sentence(header, tmp_path):
    from densevit_workbench.benchmarking.board_verification import verify

    write_rows(tmp_path / "p.csv", [row("a", (1, 0, 2))])
    write_rows(tmp_path / "q.csv", [])
    if not header:
        (tmp_path / "q.csv").write_text("")
    page = tables(tmp_path)
    assert "| a | 1. 1.000" in page and page.endswith("## q\n\nNo backbone has been measured under this protocol.")
    with pytest.raises(DataError, match=r"q\.csv: found no measured rows\. Fix: "):
        next(verify(tmp_path / "q.csv", 1))


def test_the_orders_of_frozen_and_trained_backbones_have_kendalls_tau(tmp_path):
    scores = {"a": (1, 4), "b": (2, 3), "c": (3, 2), "d": (4, 1)}
    write_rows(tmp_path / "f.csv", [row(name, (frozen, 0, 9)) for name, (frozen, _) in scores.items()])
    trained = [row(name, (score, 0, 9), training="trained") for name, (_, score) in scores.items()]
    write_rows(tmp_path / "t.csv", trained)
    assert "| f s/m0 | s/m0 | 4 | -1.00 |" in tables(tmp_path)
    errors = [row(name, (score, 0, 9), training="trained", lower="s/m0") for name, (_, score) in scores.items()]
    write_rows(tmp_path / "t.csv", errors)
    assert "| f s/m0 | s/m0 | 4 | 1.00 |" in tables(tmp_path)


@pytest.fixture
def camvid(tmp_path):
    """`camvid(side)`: label maps with thin poles, as in CamVid, reduced to side x side pixels, as a data set."""

    def written(side: int) -> LabelMaps:
        rng, root = np.random.default_rng(0), tmp_path / str(side)
        for split in ("train", "val"):
            for number in range(3):
                labels = np.zeros((448, 448), np.uint8)
                labels[200:] = 1
                for x in range(0, 416, 32) + rng.integers(0, 32, 13):
                    labels[100 : 300 + x // 4, x] = 2
                edges = np.arange(side) * 448 // side
                shares = np.eye(3, dtype=int)[labels]  # pixels of each class in the blocks between the edges
                reduced = np.add.reduceat(np.add.reduceat(shares, edges, 0), edges, 1).argmax(2).astype(np.uint8)
                for kind, array in (("images", np.repeat(reduced[..., None] * 80, 3, 2)), ("labels", reduced)):
                    folder = root / kind / split
                    folder.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(array).save(folder / f"{number}.png")
        return LabelMaps("val", root=str(root), classes=["sky", "road", "pole"])

    return written


def test_masks_reduced_before_the_metric_score_higher_and_have_another_digest(camvid):
    """Franca's issue 2: the same predictions, one class for each patch of 14 pixels, on masks of 448 and of 100."""
    [case] = cases_of_protocol(PROTOCOL, ["pixels"], ["setr"], [])
    config, mious, parts = case.config(), {}, {}

    model = SimpleNamespace(backbone=SimpleNamespace(strides=(16,)))
    datasets = {side: camvid(side) for side in (448, 100)}
    for side, dataset in datasets.items():
        evaluator = SemanticSegmentation(dataset.classes["segmentation"])
        for index in range(len(dataset)):
            truth = dataset[index]["targets"]
            full = datasets[448][index]["targets"]["semantic"]
            patches = full.unfold(0, 14, 14).unfold(1, 14, 14).flatten(2).mode(2).values
            cells = torch.arange(side) * 32 // side
            evaluator.update([{"semantic": patches[cells][:, cells]}], [truth])
        mious[side] = evaluator.metrics()["mIoU"]
        parts[side] = parts_of(config, dataset, model, {"s": evaluator}, ())
    assert mious[100] > mious[448] + 0.1  # poles are too thin for the reduced masks
    again = parts_of(config, camvid(448), model, {"s": evaluator}, ())
    assert digest_of(parts[100]) != digest_of(parts[448]) == digest_of(again)
    assert "labels: 100x100, not 448x448" in differing(parts[100], parts[448])


def test_the_protocol_is_the_config_without_backbone_seed_and_machine():
    first, second = (case.config() for case in cases_of_protocol(PROTOCOL, ["swin", "pixels"], ["setr"], []))
    assert protocol_of(first) == protocol_of(second)
    [changed] = cases_of_protocol(PROTOCOL, ["pixels"], ["setr"], ["heads.setr.width=32"])
    [moved] = cases_of_protocol(PROTOCOL, ["pixels"], ["setr"], ["data.num_workers=0", "seed=3"])
    assert protocol_of(changed.config()) != protocol_of(first) == protocol_of(moved.config())
    assert protocol_of(first, [1e-3, 2e-3]) == protocol_of(first, [2e-3, 1e-3]) != protocol_of(first)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("version", "0", "line 2: version 0 of a board; expected version 1"),
        ("command", "", "line 2: a has no command"),
        ("tokens", "8x8", "line 2: the digest .* is not that of protocol"),
        ("s/m0", "high", "line 2: expected numbers as scores"),
    ],
)
def test_wrong_files_are_one_line(column, value, message, tmp_path):
    write_rows(tmp_path / "p.csv", [row("a", (1, 0, 2))])
    [line] = csv.DictReader((tmp_path / "p.csv").read_text().splitlines())
    with (tmp_path / "p.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*line])
        writer.writeheader()
        writer.writerow({**line, column: value})
    with pytest.raises(DataError, match=message) as error:
        read_rows(tmp_path / "p.csv")
    assert "\n" not in str(error.value)


TINY = """
heads: {segmentation: {name: linear}}
data: {name: scenes, image_size: 64, batch_size: 4, transforms: resize, train_length: 8, val_length: 4, masks: false,
       num_workers: 0}
optim: {lr: 1e-3}
trainer: {max_images: 8}
"""


@pytest.mark.integration
def test_a_benchmark_adds_rows_that_are_verified(tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text(TINY)
    board, file = str(tmp_path / "board"), str(tmp_path / "board" / "segmentation.csv")
    measured = ["--batches", "1", "--rounds", "1", "--device", "cpu", "--out", str(tmp_path / "out"), "--train"]
    protocol = ["--heads", "segmentation", "--protocol", str(tmp_path / "tiny.yaml"), "--rates", "1e-3"]
    given = ["benchmark", "--backbones", "pixels", *protocol, *measured]
    for _ in range(2):  # the row is replaced
        assert main([*given, "--seeds", "0,1", "--board", board]) == 0
    [measured_row] = read_rows(Path(file))
    assert measured_row.texts["seeds"] == "0 1" and measured_row.texts["tokens"] == "4x4"
    value, low, high = measured_row.scores["segmentation/mIoU"]
    assert low <= value <= high and "| pixels |" in (tmp_path / "board.md").read_text()
    capsys.readouterr()
    assert main(["benchmark", "--verify", file]) == 0
    expected = "pixels: segmentation/mIoU equal"
    assert capsys.readouterr().out.splitlines()[-1] == expected
    for part, replaced, message in (
        ("densevit benchmark", "densevit train", "expected a command densevit benchmark"),
        ("1,pixels,", "1,pixel,", "its command measures pixels-segmentation"),
        ("densevit benchmark", "densevit benchmark data.batch_size=2", "is not that of its config"),
    ):
        text = Path(file).read_text()
        Path(file).write_text(text.replace(part, replaced))
        assert main(["benchmark", "--verify", file]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert message in error[-1], error
        Path(file).write_text(text)


def test_the_page_follows_from_the_files():
    text = (BOARD.parent / "board.md").read_text(encoding="utf-8")
    assert tables(BOARD) in text, "Fix: densevit benchmark --board docs/board"
