"""Cell centres of a padded batch."""

import pytest
import torch
from torch.nn import functional as F

from densevit.set_prediction.memory import cell_centres


@pytest.mark.parametrize(("height", "width"), [(32, 48), (24, 32)])
def test_cells_are_measured_in_the_unpadded_image(height: int, width: int):
    """At stride 8, the centre of column 2 and row 1 of a map of 4 x 6 cells is at (20, 12) pixels."""
    mask = F.pad(torch.zeros(1, height, width), (0, 48 - width, 0, 32 - height), value=1.0).bool()
    centres, cell = cell_centres(mask, (4, 6), 8)
    assert cell.tolist() == [pytest.approx([8 / width, 8 / height])] and centres.shape == (1, 24, 2)
    assert centres[0, 1 * 6 + 2].tolist() == pytest.approx([20 / width, 12 / height])
