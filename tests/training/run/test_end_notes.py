"""densevit/training/run/end_notes.py: the commands and the largest error that a training prints at its end."""

import math
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from densevit import config as configs
from tests.training.runs import SEGMENTATION


@pytest.mark.parametrize(
    ("data", "values", "expected"),
    [
        ({"name": "coco", "root": "."}, {"optim": {"lr": 1e-3}}, {"lr": 5e-4}),
        ({"name": "coco", "root": "."}, {"optim": {"lr_per_256": 4e-3}}, {"lr_per_256": 2e-3}),
        ({"name": "coco", "root": "."}, {"optim": {"lr": 5e-4}, "weights": "runs/first"}, {"lr": 5e-4}),
        ({"name": "scenes"}, {"optim": {"lr": 1e-3}}, None),
    ],
    ids=["first", "per 256 images", "continued", "no folder"],
)
def test_the_command_for_more_data_lowers_the_rate_of_the_first_run(data, values, expected, tmp_path) -> None:
    from densevit.training.run.end_notes import next_commands

    config = configs.from_mapping({**yaml.safe_load(SEGMENTATION), "data": data, **values})
    (tmp_path / "config.yaml").write_text(configs.dump(config))
    [*command] = [line for line in next_commands(config, tmp_path) if " weights=" in line]
    assert len(command) == (expected is not None)
    if expected is not None:
        [run, *overrides] = shlex.split(command[0])[2:]
        continued = configs.load(run, overrides)
        assert continued.weights == str(tmp_path) == run and continued.data.options["root"] == "FOLDER"
        assert continued.optim.model_dump(include={"lr", "lr_per_256"}, exclude_none=True) == expected


@pytest.mark.parametrize(
    ("errors", "nms", "says"),
    [
        ({"background": 0.3, "duplicate": 0.4}, None, "duplicate, costs 0.400 AP50: a head without NMS learns late"),
        ({"background": 0.3, "duplicate": 0.4}, 0.65, "duplicate, costs 0.400 AP50: see"),
        ({"background": 0.3, "missed": math.nan, "false positives": 0.9}, None, "background, costs 0.300 AP50: see"),
        ({"missed": 0.2, "localisation": 0.1}, None, "missed, costs 0.200 AP50: see"),
        ({"missed": 0.01, "false negatives": 0.9}, None, None),
    ],
)
@pytest.mark.parametrize("table", ["errors", "mask-errors"])
def test_the_last_line_names_the_largest_error_and_its_section(table, errors, nms, says) -> None:
    """More passes for heads of boxes without NMS whose duplicates cost most. The section defines each error."""
    from densevit.training.run.end_notes import largest_errors

    head = SimpleNamespace(required_targets=("boxes", "labels"), nms=nms)
    rows = [["error", "dAP50", "count"], *([name, lost, 9] for name, lost in errors.items())]
    evaluator = SimpleNamespace(records=(), tables=lambda records: {table: rows})
    plan: Any = SimpleNamespace(model=SimpleNamespace(heads={"cells": head}), evaluators={"cells": evaluator})
    lines = [*largest_errors(plan)]
    assert len(lines) == (says is not None)
    for line in lines:
        assert line.startswith(f"cells: the largest error of the last validation, {says}")
        page, anchor = line.rpartition("see ")[2].rstrip(".").split("#")
        text = Path(__file__).parents[3].joinpath(page).read_text(encoding="utf-8")
        section = text.partition(f"## {anchor.capitalize().replace('-', ' ')}\n")[2].partition("\n## ")[0]
        assert f"| {says.partition(',')[0]} |" in section


def test_a_run_without_steps_left_names_the_command_that_trains_longer() -> None:
    from densevit.training.run.end_notes import all_trained

    plan: Any = SimpleNamespace(budget=SimpleNamespace(steps=2000), changed=["optim.lr"])
    line = all_trained(plan, Path("runs/a"))
    assert line.startswith("runs/a has trained all of its 2,000 steps, without optim.lr. ")
    assert "densevit train --resume runs/a trainer.max_images=N" in line
