"""What gathered windows have and the separate steps do not; tests/layers/test_windows.py has both."""

import torch

from densevit.layers import windows as plain
from densevit.layers.fast.windows import shifted_windows


def test_compiled_graphs_have_the_separate_steps(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert isinstance(shifted_windows(torch.zeros(1, 10, 11, 2), 4, 2, 1), plain.ShiftedWindows)
