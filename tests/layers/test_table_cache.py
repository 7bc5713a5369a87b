"""Tables of shapes are cached, and which are not."""

import torch

from densevit.layers.table_cache import LIMIT, cached_table


def count(length: int, device: torch.device) -> torch.Tensor:
    return torch.arange(float(length), device=device)


CPU = torch.device("cpu")


def test_equal_arguments_share_a_tensor():
    assert cached_table(count, 3, CPU) is cached_table(count, 3, CPU)
    assert cached_table(count, 4, CPU).tolist() == [0, 1, 2, 3]
    assert cached_table(count, 3, torch.device("meta")).is_meta


def test_a_table_made_in_inference_mode_can_be_used_in_training():
    with torch.inference_mode():
        assert not cached_table(count, 5, CPU).is_inference()
    weight = torch.ones(5, requires_grad=True)
    (weight * cached_table(count, 5, CPU)).sum().backward()
    assert weight.grad.tolist() == [0, 1, 2, 3, 4]


def test_the_oldest_table_is_evicted():
    first = cached_table(count, 7, CPU)
    for length in range(100, 100 + LIMIT):
        cached_table(count, length, CPU)
    assert cached_table(count, 7, CPU) is not first


def test_fake_tensors_are_not_cached():
    with torch._subclasses.FakeTensorMode():
        cached_table(count, 11, CPU)
    assert type(cached_table(count, 11, CPU)) is torch.Tensor
