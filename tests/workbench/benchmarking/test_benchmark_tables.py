"""The tables of a benchmark, from results made by hand."""

from densevit_workbench.benchmarking.benchmark_results import CaseResult
from densevit_workbench.benchmarking.benchmark_tables import markdown

FACTS = {"command": "", "densevit": "1.0", "torch": "2.9", "device": "cpu (x86_64)", "threads": 2}
TRAINING = {
    "runs": {"0": {}},
    "seeds": [0],
    "images": 6000,
    "lr": 1e-3,
    "train_images": 16000,
    "val_images": 500,
    "device": "cpu (x86_64)",
    "precision": "32",
}
DEPTH = {
    "dpt/AbsRel": 0.1, "dpt/SqRel": 0.2, "dpt/RMSE": 0.3, "dpt/RMSElog": 0.4, "dpt/delta1": 0.5, "dpt/delta2": 0.6,
}  # fmt: skip


def case(backbone: str, head: str, metrics: dict[str, float], **training: object) -> CaseResult:
    setting = {"data": "scenes", "image_size": [128, 128], "batch_size": 8, "initial_weights": "random"}
    setting["evaluated_data"] = {"name": "scenes", "val_split": "val"}
    return CaseResult("", backbone, head, setting, training={**TRAINING, "metrics": metrics, **training})


def lines(results: dict[str, CaseResult]) -> list[str]:
    return markdown(results, FACTS).splitlines()


def test_shown_are_the_metrics_of_publications_with_their_direction():
    errors = ["dpt/AbsRel", "dpt/SqRel", "dpt/RMSE", "dpt/RMSElog"]
    ap = {"detr/AP": 0.11, "detr/AP50": 0.22, "detr/AP75": 0.33, "detr/AP/ball": 0.44}
    detr = case("swin", "detr", ap, main=["detr/AP"], lower_is_better=[])
    dpt = case("swin", "dpt", DEPTH, main=["dpt/AbsRel"], lower_is_better=errors)
    found = lines({"swin-detr": detr, "swin-dpt": dpt})
    header = "| backbone | initial weights | detr AP ↑ | detr AP50 ↑ | dpt AbsRel ↓ | dpt delta1 ↑ | dpt RMSE ↓ |"
    assert header in found and "| swin | random | 0.110 | 0.220 | 0.100 | 0.500 | 0.300 |" in found
