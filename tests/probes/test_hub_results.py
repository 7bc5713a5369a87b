"""Files for the hub, read by the hub's own library and beside the examples of its documentation."""

import pytest
import yaml

from densevit_probes.hub_results import hub_benchmark, hub_results

SCORES = {"knn/mIoU": 0.352, "normals/mean": 29.4, "depth/AbsRel": float("nan")}


@pytest.mark.parametrize("source", [None, "https://example.org/board"])
def test_the_hub_s_library_reads_the_results(source: str | None) -> None:
    """The text is also what that library writes for the same entries."""
    hub = pytest.importorskip("huggingface_hub")
    if not hasattr(hub, "parse_eval_result_entries"):
        pytest.skip("huggingface_hub is older than the format")
    text = hub_results(SCORES, "me/ade20k-probes", "2026-11-29", "capi, 9fc74c9332fc: 224 x 224 — frozen", source)
    entries = hub.parse_eval_result_entries(yaml.safe_load(text))
    shared = {"date": "2026-11-29", "notes": "capi, 9fc74c9332fc: 224 x 224 — frozen", "source_url": source}
    assert entries == [
        hub.EvalResultEntry("me/ade20k-probes", "knn/mIoU", 0.352, **shared),
        hub.EvalResultEntry("me/ade20k-probes", "normals/mean", 29.4, **shared),
    ]
    assert yaml.safe_load(text) == hub.eval_result_entries_to_yaml(entries)


def test_results_in_the_form_of_the_documentation() -> None:
    """The date is a string, not a date of YAML."""
    import numpy as np

    text = hub_results({"hle": np.float32(20.5)}, "cais/hle", "2025-01-15", "no-tools")
    assert text == (
        "- dataset:\n    id: cais/hle\n    task_id: hle\n  value: 20.5\n  date: '2025-01-15'\n  notes: no-tools\n"
    )


def test_a_benchmark_has_the_fields_of_the_documentation() -> None:
    """Of its extended example: https://huggingface.co/docs/hub/eval-results#evalyaml-specification."""
    benchmark = yaml.safe_load(hub_benchmark("AIME 2026", "An exam: maths.", ["knn/mIoU", "a"], "default", "test"))
    assert benchmark == {
        "name": "AIME 2026",
        "description": "An exam: maths.",
        "evaluation_framework": "densevit",
        "tasks": [{"id": metric, "config": "default", "split": "test"} for metric in ("knn/mIoU", "a")],
    }
