"""Files for the hub, read by the hub's own library and beside the examples of its documentation."""

import pytest
import yaml

from densevit_probes.hub_results import hub_results

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
