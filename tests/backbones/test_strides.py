"""The features of every backbone have its strides at sizes that are no multiples of them."""

import pytest
import torch

from densevit.model.contract_checks import check_features
from tests.backbones.test_contract import CASES, factory

SIZES = [(75, 101), (33, 64), (1, 1), (130, 50)]


@pytest.mark.parametrize("name", CASES)
def test_every_backbone_has_its_strides_at_sizes_that_are_no_multiples(name: str) -> None:
    for kind in CASES[name]:
        backbone = factory(name, kind)().eval()
        for size in SIZES:
            with torch.no_grad():
                check_features("backbone", backbone, backbone(torch.randn(1, 3, *size)), size)
