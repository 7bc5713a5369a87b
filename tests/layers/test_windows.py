import itertools

import pytest
import torch

from densevit.layers.windows import merge, partition, relative_position_index, shift_mask

CPU = torch.device("cpu")


def test_a_window_holds_its_own_corner_of_the_map():
    x = torch.arange(16).view(1, 4, 4, 1)
    assert partition(x, 2).squeeze(-1).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_windows_of_one_image_come_before_those_of_the_next():
    x = torch.stack([torch.zeros(4, 6, 1), torch.ones(4, 6, 1)])
    assert partition(x, 2)[:, 0, 0].tolist() == 6 * [0] + 6 * [1]


def test_merge_undoes_partition():
    x = torch.randn(2, 8, 12, 5)
    torch.testing.assert_close(merge(partition(x, 4), 4, 8, 12), x, rtol=0, atol=0)


def test_relative_position_index_of_a_window_of_two():
    # Tokens 00 01 10 11; the table's rows are the offsets (-1,-1), (-1,0), (-1,1), (0,-1), (0,0), (0,1), (1,-1), ...
    assert relative_position_index(2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_relative_position_index_is_one_row_an_offset():
    window = 5
    index = relative_position_index(window).tolist()
    places = list(itertools.product(range(window), repeat=2))
    row_of: dict[tuple[int, int], int] = {}
    for (i, a), (j, b) in itertools.product(enumerate(places), repeat=2):
        offset = (a[0] - b[0], a[1] - b[1])
        assert row_of.setdefault(offset, index[i][j]) == index[i][j]
    assert sorted(row_of.values()) == list(range(81))


@pytest.mark.parametrize(
    ("height", "width", "window", "shift"),
    [(8, 12, 4, (2, 2)), (6, 9, 3, (1, 1)), (7, 14, 7, (0, 3)), (14, 7, 7, (3, 0)), (4, 4, 4, (0, 0))],
)
def test_shift_mask_separates_tokens_that_the_shift_brought_together(height, width, window, shift):
    """Brute force: tokens of a window see one another when they lie on the unshifted map as they lie in the window."""
    place = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), dim=-1)[None]
    rolled = place.roll((-shift[0], -shift[1]), dims=(1, 2))
    before, after = partition(rolled, window), partition(place, window)  # (windows, M*M, 2)
    together = (before[:, :, None] - before[:, None]) == (after[:, :, None] - after[:, None])
    expected = torch.where(together.all(-1), 0.0, -100.0)
    assert torch.equal(shift_mask(height, width, window, shift, CPU), expected)


def test_shift_mask_of_the_paper_s_figure():
    # A 4x4 map in windows of 2, shifted by 1: the last window holds four corners that never were neighbours.
    mask = shift_mask(4, 4, 2, (1, 1), CPU)
    assert mask[0].eq(0).all()
    assert mask[3].eq(0).tolist() == torch.eye(4).bool().tolist()


def test_a_mask_made_in_inference_mode_does_not_come_back_in_training():
    with torch.inference_mode():
        shift_mask(4, 4, 2, (1, 1), CPU)
    assert not shift_mask(4, 4, 2, (1, 1), CPU).is_inference()
