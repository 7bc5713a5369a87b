import math

from rich.console import Console

from densevit.visualization.tables import metrics_table


def shown(metrics: dict[str, float], width: int = 80) -> list[list[str]]:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(metrics_table(metrics))
    return [line.split() for line in console.export_text().splitlines() if line.strip()]


def test_one_table_a_head_and_one_for_its_classes():
    metrics = {
        f"detection/{name}": n / 100 for n, name in enumerate(["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1"])
    }
    metrics |= {"detection/APs": math.nan, "depth/AbsRel": 0.12345}
    metrics |= {f"detection/AP/{name}": 0.5 for name in ("cat", "[red]dog[/]", "fox", "traffic light")}
    assert shown(metrics) == [
        ["detection"],
        ["AP", "0.0000", "AP50", "0.0100", "AP75", "0.0200", "APs", "–", "APm", "0.0400", "APl", "0.0500"],
        ["AR1", "0.0600"],
        ["detection:", "AP", "of", "each", "class"],
        ["cat", "0.5000", "[red]dog[/]", "0.5000", "fox", "0.5000"],
        ["traffic", "light", "0.5000"],
        ["depth"],
        ["AbsRel", "0.1235"],
    ]


def test_the_twelve_numbers_of_coco_fit_a_terminal_of_eighty_columns():
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    lines = shown({f"detection/{name}": 0.5 for name in names})
    assert [word for line in lines[1:] for word in line[::2]] == names and len(lines) == 3
