"""tools/benchmarks/convergence.py: its tables and plot from given results, its contestants, and what it trains."""

import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from densevit import config as configs
from densevit.data.build import build_data
from densevit.interfaces import Class
from densevit.weights.building import build_model

CLASSES = [Class(str(i), i, (0, 0, 0)) for i in range(8)]
LABELS = {"a": "Reference", "b": "Challenger"}
RATES = {"a": 60.0, "b": 30.0}


@pytest.fixture
def tool(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project / "tools" / "benchmarks"))
    return __import__("convergence")


@pytest.fixture
def peer(tool: ModuleType) -> ModuleType:
    return __import__("convergence_peer")


def run(name: str, seed: int, minutes: float, *ap: float) -> dict[str, object]:
    """A run of equal intervals, with AP50 twice the AP."""
    images = [minutes * 60 * RATES[name] * i / len(ap) for i in range(1, len(ap) + 1)]
    return {
        "contestant": name,
        "seed": seed,
        "minutes": minutes,
        "points": [[n, value, 2 * value] for n, value in zip(images, ap, strict=True)],
    }


def results() -> dict[str, object]:
    """The reference has 0.2 at 10 minutes; the challenger's mean is 0, 0.1, 0.3 and 0.4 at 2.5, 5, 7.5 and 10."""
    runs = [run("a", 0, 10, 0.1, 0.15), run("a", 1, 10, 0.1, 0.25), run("b", 0, 5, 0.1, 0.25)]
    runs += [run("b", 1, 10, 0.0, 0.2, 0.4, 0.5), run("b", 0, 10, 0.0, 0.0, 0.2, 0.3)]
    return {"rates": RATES, "images_per_second": RATES, "runs": runs}


def test_tables_have_means_seeds_and_the_time_to_reach_the_yardstick(tool: ModuleType) -> None:
    assert tool.tables(results(), LABELS, "a", "b").splitlines() == [
        "|  | images/s | AP, 5 min | AP, 10 min | AP50, 5 min | AP50, 10 min |",
        "| --- | --- | --- | --- | --- | --- |",
        "| Reference | 60.0 |  | 0.200 (0.150, 0.250) |  | 0.400 (0.300, 0.500) |",
        "| Challenger | 30.0 | 0.250 (0.250) | 0.400 (0.300, 0.500) | 0.500 (0.500) | 0.800 (0.600, 1.000) |",
        "",
        "AP 0.200, that of Reference after 10 min, is reached after 6.2 min of the 10 by Challenger (mean curve), and "
        "by its runs annealed at 5 min.",
        "",
        "| AP after minutes | 2.5 | 5 | 7.5 | 10 |",
        "| --- | --- | --- | --- | --- |",
        "| Reference |  | 0.100 |  | 0.200 |",
        "| Challenger | 0.000 | 0.100 | 0.300 | 0.400 |",
    ]  # 0.2 lies midway between 5 and 7.5 minutes


def test_finished_runs_are_not_repeated(tool: ModuleType, tmp_path: Path) -> None:
    empty = tool.read(tmp_path)
    assert [key.folder for key in tool.missing(empty, ["a"], 2, [10, 2.5])] == [
        "a-seed0-2.5min",
        "a-seed0-10min",
        "a-seed1-2.5min",
        "a-seed1-10min",
    ]
    tool.write(results(), tmp_path)
    assert [key.folder for key in tool.missing(tool.read(tmp_path), ["a", "b"], 2, [10, 5])] == [
        "a-seed0-5min",
        "a-seed1-5min",
        "b-seed1-5min",
    ]
    assert tool.images_of(10, 60.0) == 36_000


def test_interrupted_runs_go_on(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, commands = tool.RunKey("detector", 0, 2.0), []
    folder = tmp_path / "runs" / key.folder
    monkeypatch.setattr(tool, "execute", lambda arguments, *_: commands.append(arguments))
    (folder / "checkpoints").mkdir(parents=True)
    assert tool.train(key, tool.CONTESTANTS["detector"], 60.0, tmp_path, 1, 8) == [] and not folder.exists()
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    assert tool.train(key, tool.CONTESTANTS["detector"], 60.0, tmp_path, 1, 8) == [] and folder.exists()
    assert "trainer.max_images=7200" in commands[0] and commands[1][-2:] == ["--resume", str(folder)]


def test_peer_gets_boxes_relative_to_the_image_and_gives_them_in_original_pixels(peer: ModuleType) -> None:
    """An image of 40 x 20 pixels, resized from 80 x 40: a box of its right half, found by the second query."""
    target = {
        "boxes": torch.tensor([[20.0, 0.0, 40.0, 20.0]]),
        "labels": torch.tensor([1]),
        "size": (20, 40),
        "original_size": (40, 80),
    }
    (label,) = peer.labels([target], torch.device("cpu"))
    assert label["boxes"].tolist() == [[0.75, 0.5, 0.5, 1.0]] and label["class_labels"].tolist() == [1]
    logits = torch.tensor([[[0.0, 0.0, 2.0], [1.0, 3.0, 4.0]]])  # two classes and "no object"
    outputs = SimpleNamespace(logits=logits, pred_boxes=torch.stack([torch.zeros(1, 4), label["boxes"]], dim=1))
    (found,) = peer.predictions(outputs, [target])
    assert found["labels"].tolist() == [0, 1] and found["boxes"][1].tolist() == [40.0, 0.0, 80.0, 40.0]
    assert found["scores"][1].item() == pytest.approx(1 / (2.718281828**-2 + 1 + 2.718281828), rel=1e-5)


class Oracle(torch.nn.Module):
    """Outputs of transformers' DETR that equal the labels of the batches, in their order."""

    def __init__(self, labels: list[list[dict[str, torch.Tensor]]]) -> None:
        super().__init__()
        self.labels = iter(labels)

    def forward(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor) -> SimpleNamespace:
        assert pixel_mask.all() and pixel_values.shape[1:] == (3, 128, 128)
        labels = next(self.labels)
        logits = torch.zeros(len(labels), 40, len(CLASSES) + 1)
        logits[..., -1] = 20.0  # no object
        boxes = torch.zeros(len(labels), 40, 4)
        for image, label in enumerate(labels):
            count = len(label["boxes"])
            boxes[image, :count] = label["boxes"]
            logits[image, torch.arange(count), label["class_labels"]] = 40.0
        return SimpleNamespace(logits=logits, pred_boxes=boxes)


def test_validation_of_the_peer_gives_the_labels_an_ap_of_1(tool: ModuleType, peer: ModuleType) -> None:
    recipe = tool.CONTESTANTS["transformers_detr"].config
    data = build_data(configs.load(recipe, [*tool.FIXED, *tool.HELD_OUT, "data.val_length=4", "data.num_workers=0"]))
    device = torch.device("cpu")
    oracle = Oracle([peer.labels(batch["targets"], device) for batch in data.val_loader()])
    assert peer.validate(oracle, data, device, nullcontext) == {"detection/AP": 1.0, "detection/AP50": 1.0}


def test_options_are_changed_alone_and_chosen_on_other_scenes_than_the_held_out(tool: ModuleType) -> None:
    options = __import__("detection_options")
    contestants = options.contestants()
    bases = {name: base for name, base in options.BASES.items() if base.config is not None}
    assert len(contestants) == sum(1 + len(base.options) for base in bases.values())
    for name, base in bases.items():
        plain = configs.load(base.config, contestants[name].overrides)
        for option in base.options:
            contestant = contestants[options.key(name, option)]
            config = configs.load(contestant.config, contestant.overrides)
            assert (config.data, config.backbone) == (plain.data, plain.backbone) and config.data.split == "val"
            assert (config.heads, config.optim) != (plain.heads, plain.optim), option
            with torch.device("meta"):
                build_model(config, {"detection": CLASSES})


def test_the_page_has_the_tables_and_the_plot_of_the_results(tool: ModuleType, project: Path, tmp_path: Path) -> None:
    found = json.loads((project / "docs" / "convergence.json").read_text())
    page = (project / "docs" / "benchmarks.md").read_text()
    assert " ".join(tool.report(found, tmp_path).split()) in " ".join(page.split())  # the page wraps its lines
    drawn, shown = ((folder / "convergence.svg").read_text() for folder in (tmp_path, project / "docs"))
    for part in (r">([^<]+)</text>", r"stroke: (#\w+); stroke-width: 2.5"):  # matplotlib's versions differ in digits
        assert re.findall(part, drawn) == re.findall(part, shown) != []


def test_the_page_has_the_table_of_options(tool: ModuleType, project: Path) -> None:
    options = __import__("detection_options")
    found = json.loads((project / "docs" / "detection_options.json").read_text())
    page = (project / "docs" / "benchmarks.md").read_text()
    assert options.table(found) in page
    rows = [(name, options.key(name, option)) for name, base in options.BASES.items() for option in base.options]
    assert {run["contestant"] for run in found["runs"]} == {name for row in rows for name in row}
