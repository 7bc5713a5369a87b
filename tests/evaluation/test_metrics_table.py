"""Tables of metrics on a terminal of 80 columns."""

import math

from rich.console import Console

from densevit.cli.evaluation_tables import evaluation_tables
from densevit.evaluation.metrics_file import by_class
from densevit.evaluation.metrics_table import metrics_table


def shown(metrics: dict[str, float], width: int = 80) -> list[list[str]]:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(metrics_table(metrics))
    return [line.split() for line in console.export_text().splitlines() if line.strip()]


def test_metrics_of_several_heads_share_a_table():
    metrics = {f"boxes/{name}": n / 100 for n, name in enumerate(["AP", "AP50", "AP75", "APs", "APm"])}
    metrics |= {f"boxes/AP/{name}": 0.5 for name in ("cat", "[red]dog[/]", "fox", "traffic light")}
    metrics |= {"maps/mIoU": 0.5, "maps/IoU/sky": 0.5, "maps/IoU/road": 0.25}
    metrics |= {"depth/AbsRel": 0.12345, "depth/RMSE": math.nan}
    assert shown(metrics) == [
        ["boxes", "AP", "0.0000", "AP50", "0.0100", "AP75", "0.0200", "APs", "0.0300"],
        ["APm", "0.0400"],
        ["maps", "mIoU", "0.5000"],
        ["depth", "AbsRel", "0.1235", "RMSE", "–"],
        ["boxes:", "AP", "of", "each", "class"],
        ["cat", "0.5000", "[red]dog[/]", "0.5000", "fox", "0.5000"],
        ["traffic", "light", "0.5000"],
        ["maps:", "IoU", "of", "each", "class"],
        ["sky", "0.5000", "road", "0.2500"],
    ]


def test_the_table_of_classes_fits_80_columns():
    header = ["class", "objects", "predictions", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]
    rows = [header, ["Platelets", 36_781, 1_234_567, *[0.5] * 7]]
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(evaluation_tables({"detection/AP": 0.5}, {"detection": {"classes": rows}}))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[-2:] == [header, ["Platelets", "36,781", "1,234,567", *["0.5000"] * 7]]


def test_metrics_of_the_same_classes_share_a_table():
    names = ["sky", "traffic light", "road"]
    metrics = {"segmentation/mIoU": 0.5} | {f"segmentation/IoU/{name}": n / 10 for n, name in enumerate(names)}
    metrics |= {f"segmentation/Acc/{name}": math.nan if name == "road" else 0.75 for name in names}
    two = [
        ["segmentation"],
        ["mIoU", "0.5000"],
        ["segmentation:", "each", "class"],
        ["class", "IoU", "Acc", "class", "IoU", "Acc"],
        ["sky", "0.0000", "0.7500", "traffic", "light", "0.1000", "0.7500"],
        ["road", "0.2000", "–"],
    ]
    assert shown(metrics) == two
    three = metrics | {f"segmentation/BIoU/{name}": 0.25 for name in names}
    assert shown(three)[3:] == [
        ["class", "IoU", "Acc", "BIoU"],
        ["sky", "0.0000", "0.7500", "0.2500"],
        ["traffic", "light", "0.1000", "0.7500", "0.2500"],
        ["road", "0.2000", "–", "0.2500"],
    ]


def test_metrics_of_other_classes_have_a_separate_table():
    assert by_class({"mIoU": 0.5, "IoU/a/b": 0.1, "AP/dog": 0.2, "Acc/a/b": 0.3}) == [
        {"IoU": {"a/b": 0.1}, "Acc": {"a/b": 0.3}},
        {"AP": {"dog": 0.2}},
    ]
