"""What gathered windows have and the separate steps do not; tests/layers/test_windows.py has both."""

import torch

from densevit.layers import windows as plain
from densevit.layers.fast.windows import shifted_windows


def test_windows_are_cached_per_size_and_usable_in_training_after_prediction():
    with torch.inference_mode():
        first = shifted_windows(torch.zeros(1, 10, 11, 2), 4, 2, 1)
    x = torch.zeros(1, 10, 11, 2)
    assert shifted_windows(x, 4, 2, 1) is first
    assert shifted_windows(x, 4, 2, 1, "dense") is not first
    assert not first.mask.is_inference()
    assert shifted_windows(x.to("meta"), 4, 2, 1).mask.is_meta
    assert shifted_windows(x.bfloat16(), 4, 2, 1).mask.dtype == torch.bfloat16


def test_compiled_graphs_have_the_separate_steps(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert isinstance(shifted_windows(torch.zeros(1, 10, 11, 2), 4, 2, 1), plain.ShiftedWindows)
