import pytest

from densevit_workbench.benchmarking.timing import Timing, interleaved


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


def test_percentiles_leave_out_the_warm_up():
    """Runs 4 ... 103 take 4 ... 103 ms: the median is 53.5, and the 95th percentile lies between the 95th and 96th."""
    found, errors = interleaved({"a": Recorded("a", [], 0.001)}, rounds=100)  # type: ignore[dict-item]
    expected = [pytest.approx(value) for value in (53.5, 98.05, 4 / 0.0535)]
    assert errors == {} and found["a"] == Timing(*expected, 7.0, 100)
