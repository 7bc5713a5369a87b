"""The formulas of docs/scale.md, by hand."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def scale(project: Path) -> Any:
    spec = importlib.util.spec_from_file_location("scale_benchmark", project / "tools/benchmarks/scale.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_slowest_part_limits_a_step(scale: Any) -> None:
    gpu = scale.Gpu(tflops=100, node=100e9, network=10e9)
    training = scale.Training("", "", images=1000.0, size=(1, 1), batch=2, classes=1, source=(1, 1))
    given = {"flops": 1e12, "parameters": 25_000_000, "seconds": 0.1, "gpu": gpu, "utilisation": 0.5, "cores": 10}
    one = scale.cost(training, N=1, **given)
    assert (one.compute, one.data, one.exchange, one.limit) == (0.04, 0.02, 0.0, "compute")
    assert one.total == pytest.approx(1000 / 2 * 0.04)
    eight = scale.cost(training, N=8, **given)  # 100 MB, 7/4 of it, within a node
    assert eight.exchange == pytest.approx(1.75 * 0.1e9 / 100e9)
    many = scale.cost(training, N=64, **{**given, "parameters": 500_000_000})
    assert many.exchange == pytest.approx(2 * 63 / 64 * 2e9 / 10e9) and many.limit == "exchange"
    assert many.total == pytest.approx(1000 / 128 * many.exchange)
