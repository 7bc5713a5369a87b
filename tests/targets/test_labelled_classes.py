"""densevit/targets/labelled_classes.py: names of labelled classes, and what a head gets."""

import pytest
import torch

from densevit.errors import DataError
from densevit.interfaces import as_classes
from densevit.targets.labelled_classes import LabelledClasses, by_class


@pytest.mark.parametrize("value", [torch.ones(2), ("cat",), [0]])
def test_values_are_lists_of_names(value):
    with pytest.raises(DataError, match="expected a list of class names"):
        LabelledClasses().check(value, (4, 4))


def test_heads_get_the_names_as_flags_of_their_classes():
    tensors = torch.tensor([True, False, True])
    targets = by_class([{"labelled": ["dog", "sky"]}, {}, {"labelled": tensors}], as_classes(["cat", "dog", "bus"]))
    assert [*targets[0]["labelled"]] == [False, True, False]
    assert targets[1] == {} and targets[2]["labelled"] is tensors
