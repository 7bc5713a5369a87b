"""densevit/training/run/fit.py: what a run has in Python."""

import json
from typing import Any

from safetensors.torch import load_file

from tests.training.runs import assert_same, plain


def test_a_run_has_its_path_metrics_model_and_tables(run: Any) -> None:
    assert not run.stopped
    assert plain(run.metrics) == json.loads((run.path / "metrics.json").read_text())
    assert run.model is run.model and not run.model.training
    state = {name: value.cpu() for name, value in run.model.state_dict().items()}
    assert_same(state, load_file(run.path / "model.safetensors"))
    header, *rows = run.tables["classes-surfaces"]
    assert header[:2] == ["class", "pixels"]
    assert [row[0] for row in rows] == [one.name for one in run.model.classes["surfaces"]]
    assert sum(row[1] for row in rows) <= 3 * 32 * 32 and isinstance(rows[0][1], int)  # pixels of three images
