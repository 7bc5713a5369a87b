"""tools/same_results.py: one tree twice is equal, and a change of a weight, a text or the shape is named."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def same_results(project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(project / "tools"))
    return importlib.import_module("same_results")


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"x": np.ones(3, np.float32), "t": "loss 0.5"}, ""),
        ({"x": np.float32([1, 1, 1.25]), "t": "loss 0.5"}, "1 of 2 parts, most x: by 0.25"),
        ({"x": np.ones(3, np.float64), "t": "loss 0.75"}, "2 of 2 parts, most t: by 0.25"),
        ({"x": np.ones(3, np.float32), "t": "cost 0.5"}, "1 of 2 parts, as t: loss 0.5 | cost 0.5"),
        ({"x": np.ones((1, 3), np.float32), "t": "loss 0.5"}, "1 of 2 parts, as x: [1. 1. 1.] | [[1. 1. 1.]]"),
        ({"t": "loss 0.5"}, "only in one: x"),
    ],
)
def test_difference_names_the_part_that_differs_most(same_results, after, said):
    differences = importlib.import_module("result_differences")
    before = {"x": np.ones(3, np.float32), "t": "loss 0.5"}
    assert differences.difference(before, after) == said
    assert (differences.digest(before) == differences.digest(after)) == (not said)


@pytest.mark.integration
def test_one_tree_is_equal_to_itself_and_a_changed_weight_is_found(same_results, project, monkeypatch, capsys):
    def tiny(tree: Any) -> Any:
        (tree.out / "tiny.yaml").write_text(same_results.TINY)
        if not (tree.out / "run").exists():
            tree.succeeds(["train", "tiny.yaml", "trainer.max_steps=1", "--run-dir", "run"])
        return same_results.recorded(tree.out / "run")

    def changed(tree: Any) -> Any:
        results = tiny(tree)
        if tree.out.name == "after":
            next(iter(results["weights"].values())).flat[0] += 2.0
        return results

    monkeypatch.setattr(same_results, "ROWS", {"tiny": tiny, "changed": changed})
    assert same_results.main([str(project), str(project)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert [line for line in lines if not line.endswith("| equal |")] == [lines[6]]
    assert lines[6].startswith("| changed | weights |") and ": by 2 |" in lines[6]
