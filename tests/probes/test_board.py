"""The board: digests, ranks, files, its page, and rows that are run again."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from densevit.cli import main
from densevit.data.datasets.label_maps import LabelMaps
from densevit.errors import ConfigError, DataError
from densevit_probes.board_page import ranks, tables, write_page
from densevit_probes.board_rows import Row, add_row, read_rows
from densevit_probes.board_verification import verify
from densevit_probes.protocols import Protocol
from densevit_workbench.benchmarking.digest import PARTS, differing, digest_of, hashed, parts_of, protocol_of
from tests.written_files import save_image

BOARD = Path(__file__).parents[2] / "docs" / "development" / "board"
PARTS_HERE = dict.fromkeys(PARTS, "x") | {"tokens": "4x4"}


def row(name: str, *scores: tuple[float, ...], lower: bool = False, trained: bool = False, **parts: str) -> Row:
    names = [f"s/m{n}" for n in range(len(scores))]
    values = PARTS_HERE | parts
    return Row(
        backbone=name,
        scores={metric: [*x] for metric, x in zip(names, scores, strict=True)},
        main=names,
        error_metrics=names if lower else [],
        training="trained" if trained else "frozen",
        config={"seed": 0},
        network=name,
        digest=digest_of(values),
        parts=values,
    )


def add(folder: Path, *rows: Row) -> None:
    for each in rows:
        add_row(folder, each)


def test_rows_with_overlapping_intervals_share_a_rank_also_through_others():
    rows = [row("d", (1, 0.5, 1.5)), row("a", (9, 8, 10)), row("c", (6, 5, 7)), row("b", (7.5, 6.5, 8.5))]
    assert ranks(rows, "s/m0") == [4, 1, 1, 1]
    assert ranks([replace(r, error_metrics=["s/m0"]) for r in rows], "s/m0") == [1, 2, 2, 2]
    assert ranks([row("a", (1,)), row("b", (2,))], "s/m0") == [2, 1]


def test_another_digest_stands_apart_with_what_differs(tmp_path):
    published = Row("paper's", {"s/m0": [5.0]}, ["s/m0"], source="A. et al. 2025")
    add(tmp_path / "p", row("a", (1, 0, 2)), row("b", (2, 1, 3)), row("large", (9, 9, 9), tokens="16x16"), published)
    page = tables(tmp_path)
    assert (
        "| b | 1. 2.000 (1.000 to 3.000) | 4x4 |" in page and "| paper's (published: A. et al. 2025) | 5.000 |" in page
    )
    assert "- large: s/m0 9.000; tokens: 16x16, not 4x4" in page and "| large" not in page
    assert write_page(tmp_path).read_text().count("## p") == 1


def test_the_orders_of_frozen_and_trained_backbones_have_kendalls_tau(tmp_path):
    scores = {"a": (1, 4), "b": (2, 3), "c": (3, 2), "d": (4, 1)}
    add(tmp_path / "f", *(row(name, (frozen, 0, 9)) for name, (frozen, _) in scores.items()))
    for lower, tau in ((False, "-1.00"), (True, "1.00")):
        add(tmp_path / "t", *(row(name, (x, 0, 9), trained=True, lower=lower) for name, (_, x) in scores.items()))
        assert f"| f s/m0 | s/m0 | 4 | {tau} |" in tables(tmp_path)


MODEL = SimpleNamespace(backbone=SimpleNamespace(strides=(16,)))


def test_training_images_are_in_the_digest(tmp_path):
    """A cheat: the images of the evaluation are the training images; and labels of training images are changed."""
    rng = np.random.default_rng(0)
    for split, number in itertools.product(("train", "val"), range(3)):
        labels = rng.integers(3, size=(32, 48)).astype(np.uint8)
        for kind, array in (("images", np.repeat(labels[..., None] * 80, 3, 2)), ("labels", labels)):
            save_image(tmp_path / kind / split / f"{number}.png", array)
    train, val = (LabelMaps(split, root=str(tmp_path), classes=["sky", "road", "pole"]) for split in ("train", "val"))
    config, data = Protocol.read("quick").config({"name": "pixels"}), SimpleNamespace(train=train, val=val)
    honest = parts_of(config, data, MODEL, {})
    leaked = parts_of(config, SimpleNamespace(train=val, val=val), MODEL, {})
    path = tmp_path / "labels" / "train" / "1.png"
    Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
    changed = parts_of(config, data, MODEL, {})
    assert len({digest_of(parts) for parts in (honest, leaked, changed)}) == 3
    assert differing(leaked, honest).startswith("train: ") and differing(changed, honest).startswith("train: ")


def test_the_protocol_is_the_config_without_backbone_seed_and_machine():
    read = Protocol.read
    first, second = (read("quick").config({"name": name}) for name in ("resnet", "pixels"))
    assert protocol_of(first) == protocol_of(second) != protocol_of(first, probes={"knn": {"k": [1]}})
    changed = read("quick", ["heads.depth.bins=32"]).config({"name": "pixels"})
    moved = read("quick", ["data.num_workers=0", "seed=3"]).config({"name": "pixels"})
    assert protocol_of(changed) != protocol_of(first) == protocol_of(moved)
    assert (
        hashed({"a": [{"b": None, "c": 1}]}) == hashed({"a": [{"c": 1}]}) != hashed({"a": [{}]})
    )  # of a later version
    assert protocol_of(first, [1e-3, 2e-3]) == protocol_of(first, [2e-3, 1e-3]) != protocol_of(first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": PARTS_HERE | {"tokens": "8x8"}}, "the digest .* is not that of protocol"),
        ({"score": 1}, "unexpected keyword"),
    ],
)
def test_wrong_files_are_one_line(change, message, tmp_path):
    path = add_row(tmp_path, row("a", (1, 0, 2)))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=f"expected a row of a board; found: .*{message}") as error:
        read_rows(tmp_path)
    assert "\n" not in str(error.value)


TINY = """
heads: {segmentation: {name: linear}}
probes: {knn: {name: patch_knn}}
data: {name: scenes, image_size: 64, batch_size: 4, transforms: resize, train_length: 8, val_length: 4, masks: false,
       num_workers: 0}
optim: {lr: 1e-3}
trainer: {max_images: 8}
"""
NETWORK = """
import torch, densevit
class Net(densevit.Backbone):
    channels, strides = (3,), (16,)
    def forward(self, images): return [torch.nn.functional.avg_pool2d(images, 16) * 1]
"""


@pytest.fixture
def tiny(cwd, on_path) -> Path:
    """A protocol, and a module with a backbone."""
    on_path(cwd)
    (cwd / "tiny.yaml").write_text(TINY)
    (cwd / "net_of_board.py").write_text(NETWORK)
    return cwd


@pytest.mark.parametrize("place", ["backbone", "heads", "probes", "base"])
def test_classes_that_rows_name_are_not_imported_without_trust(place, tiny, capsys):
    (tiny / "theirs.py").write_text("raise ImportError('theirs')\n")
    (tiny / "theirs.yaml").write_text("data: {name: 'theirs:Data'}\n")
    named = {"name": "theirs:Net"}
    config = {"seed": 0, "backbone": {"name": "pixels"}, "heads": {}, "data": {"name": "scenes"}}
    changes = {"backbone": named, "heads": {"a": named}, "base": str(tiny / "theirs.yaml")}
    if place == "base":
        del config["data"]
    config |= {key: value for key, value in changes.items() if key == place}
    probes = {"a": named} if place == "probes" else {}
    add(tiny / "board" / "p", replace(row("a", (1, 0, 2)), config=config, probes=probes))
    with pytest.raises(
        ConfigError, match=r"p/a-.*\.json: 'theirs:\w+' is named in this file: its code would run.*--trust"
    ):
        [*verify(tiny / "board", 1, 0)]
    assert main(["probe", "--verify", "board", "--trust", "--device", "cpu"]) != 0
    assert "cannot be imported: ImportError: theirs" in capsys.readouterr().err


@pytest.mark.integration
def test_rows_are_verified_and_a_wrong_score_is_found(tiny, capsys):
    (tiny / "pixels32.yaml").write_text("{name: pixels, patch_size: 32, freeze: false}")
    arguments = ["probe", "pixels32.yaml", "--protocol", f"{tiny}/tiny.yaml", "--device", "cpu", "--board", "board"]
    with pytest.warns(UserWarning, match=r"backbone\.freeze=False is replaced by freeze=True of the protocol"):
        assert main(arguments) == 0
    assert main(arguments) == 0  # rows are replaced
    files = [*read_rows(tiny / "board" / "tiny")]
    for path, row in read_rows(tiny / "board" / "tiny").items():  # with the files for the hub
        entries = yaml.safe_load((path.parent / ".eval_results" / f"{path.stem}.yaml").read_text())
        assert {x["dataset"]["task_id"]: x["value"] for x in entries} == {m: row.scores[m][0] for m in row.main}
        tasks = yaml.safe_load((path.parent / "eval.yaml").read_text())["tasks"]
        assert [task["id"] for task in tasks] == row.main
    assert len(files) == 2 and str(tiny) not in "".join(path.read_text() for path in files)
    assert "- pixels32: segmentation/mIoU" in (tiny / "board.md").read_text()  # 2x2 tokens, not 4x4
    drawn = set()
    for seed in range(8):
        capsys.readouterr()
        assert main(["probe", "--verify", "board", "--rows", "1", "--seed", str(seed), "--device", "cpu"]) == 0
        line, said = capsys.readouterr().out.splitlines()
        assert "knn/mIoU equal" in line and said == f"1 row, drawn with --seed {seed}"
        drawn.add(line)
        if len(drawn) == 2:
            break
    assert len(drawn) == 2  # not the first rows only
    for path in files:
        text = path.read_text()
        values = json.loads(text)
        values["scores"]["knn/mIoU"] = [0.9, 0.88, 0.92]
        path.write_text(json.dumps(values))
    assert main(["probe", "--verify", "board/tiny", "data.num_workers=1", "--device", "cpu"]) == 1
    assert capsys.readouterr().out.count("outside 0.88 to 0.92") == 2
    path.write_text(text.replace('"k"', '"k"').replace('"lr": 0.001', '"lr": 0.01'))
    assert main(["probe", "--verify", "board/tiny", "--device", "cpu"]) == 1
    assert "protocol: " in capsys.readouterr().out


def test_the_page_follows_from_the_files():
    text = BOARD.with_suffix(".md").read_text(encoding="utf-8")
    assert tables(BOARD) in text, "Fix: densevit probe --board docs/development/board"
