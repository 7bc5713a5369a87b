"""Values are compared with limits at each call, also by copies of a model."""

import copy
import pickle

import pytest
import torch

from densevit.errors import DataError
from densevit.model.running_checks import RunningChecks


def check(largest: float) -> None:
    if largest > 1:
        raise DataError(f"{largest} is too large.")


def test_values_on_the_cpu_are_compared_at_each_call_and_copies_compare_anew() -> None:
    checks = RunningChecks()
    checks.update("a", torch.tensor([1.0]), check)
    for same in (checks, copy.deepcopy(checks), pickle.loads(pickle.dumps(checks))):
        with pytest.raises(DataError, match="2.0 is too large"):
            same.update("a", torch.tensor([2.0]), check)


def test_tensors_without_values_are_not_compared() -> None:
    RunningChecks().update("a", torch.full((1,), 2.0, device="meta"), check)
