import torch

from densevit.weights.state import part


def equal(found, expected) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())


def test_part_selects_a_prefix_or_everything():
    state = {"backbone.a": torch.ones(1), "heads.x.a": torch.zeros(1), "heads.xx.a": 2 * torch.ones(1)}
    assert equal(part(state, "backbone."), {"a": torch.ones(1)})
    assert equal(part(state, "heads.x."), {"a": torch.zeros(1)})
    bare = {"0.weight": torch.ones(1)}
    assert equal(part(bare, "backbone."), bare)
