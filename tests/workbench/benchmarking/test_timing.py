import pytest

from densevit_workbench.benchmarking.attempts import reported
from densevit_workbench.benchmarking.timing import interleaved


class Recorded:
    """In place of `timing.Forward`: takes given times and records the order of the runs."""

    count = 4

    def __init__(self, name: str, order: list[str], seconds: float, fails_at: int = -1) -> None:
        self.name, self.order, self.time, self.fails_at, self.runs = name, order, seconds, fails_at, 0

    def seconds(self) -> float:
        self.order.append(self.name)
        self.runs += 1
        if self.runs == self.fails_at:
            raise RuntimeError("no memory left")
        return self.time * self.runs  # 1, 2, 3, ... times

    def peak_memory(self) -> float:
        return 7.0


def test_rounds_are_interleaved_and_begin_with_each_model_in_turn():
    order: list[str] = []
    interleaved({name: Recorded(name, order, 0.001) for name in "abc"}, rounds=6)  # type: ignore[misc]
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert rounds == ["abc", "bca", "cab"] * 3  # 3 of them warm up


@pytest.mark.parametrize("quiet", [False, True])
def test_a_line_follows_each_finished_part(quiet, capsys):
    parts = reported(["swin", "vit"], "cost", str.upper, quiet)
    assert next(parts) == "swin" and capsys.readouterr().err == ""
    assert next(parts) == "vit"
    assert capsys.readouterr().err == ("" if quiet else "cost 1 of 2: SWIN, 0.0 s\n")
    assert list(parts) == [] and capsys.readouterr().err == ("" if quiet else "cost 2 of 2: VIT, 0.0 s\n")
