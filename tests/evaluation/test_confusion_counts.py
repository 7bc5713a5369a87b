"""Counts of pairs of labels, on the CPU and as on a GPU, against numpy's."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from densevit.evaluation import confusion_counts
from densevit.evaluation.confusion_counts import count_pairs


@pytest.mark.parametrize("count", [count_pairs, confusion_counts._count_on_device], ids=["CPU", "device"])
def test_pixels_of_each_pair_are_counted_in_chunks(count: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(confusion_counts, "EXACT", 100)
    rows, columns = np.random.default_rng(0).integers(0, 256, (2, 72, 72)).astype(np.uint8)
    expected = np.zeros((256, 256), int)
    np.add.at(expected, (rows, columns), 1)
    found = count(torch.from_numpy(rows), torch.from_numpy(columns), 200)  # the others are left out
    assert found.dtype == torch.int64 and np.array_equal(found, expected[:200, :200])
