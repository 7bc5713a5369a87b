"""Classes by names or a number, their colours, and names that files cannot hold."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from densevit import interfaces
from densevit.errors import DataError
from densevit.interfaces import Class

ROAD = Class("road", 7, (1, 2, 3), thing=False)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: interfaces.as_classes([ROAD, "car"]), (ROAD, Class("car", 1, interfaces.color_of(1)))),
        (lambda: [(c.name, c.file_id) for c in interfaces.as_classes(2)], [("0", 0), ("1", 1)]),
        (lambda: len({interfaces.color_of(i) for i in range(150)}), 150),
        (lambda: [interfaces.image_id({"image_id": x}) for x in (torch.tensor(3), "a/3")], [3, "a/3"]),
    ],
)
def test_classes_and_ids(call: Callable[[], Any], expected: Any):
    assert call() == expected


def test_a_name_that_files_cannot_hold_is_refused():
    with pytest.raises(DataError, match=r"The class 'a\\ud800' \(id 3\) contains half of a surrogate"):
        Class("a\ud800", 3, (0, 0, 0))
