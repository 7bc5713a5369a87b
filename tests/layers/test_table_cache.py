import torch

from densevit.layers.table_cache import LIMIT, kept


def count(length: int, device: torch.device) -> torch.Tensor:
    return torch.arange(float(length), device=device)


CPU = torch.device("cpu")


def test_the_same_arguments_give_the_same_tensor_and_others_another():
    assert kept(count, 3, CPU) is kept(count, 3, CPU)
    assert kept(count, 4, CPU).tolist() == [0, 1, 2, 3]
    assert kept(count, 3, torch.device("meta")).is_meta


def test_a_table_made_in_inference_mode_serves_training():
    with torch.inference_mode():
        assert not kept(count, 5, CPU).is_inference()
    weight = torch.ones(5, requires_grad=True)
    (weight * kept(count, 5, CPU)).sum().backward()
    assert weight.grad.tolist() == [0, 1, 2, 3, 4]


def test_the_oldest_goes_when_there_are_too_many():
    first = kept(count, 7, CPU)
    for length in range(100, 100 + LIMIT):
        kept(count, length, CPU)
    assert kept(count, 7, CPU) is not first


def test_no_fake_tensor_is_kept():
    with torch._subclasses.FakeTensorMode():
        kept(count, 11, CPU)
    assert type(kept(count, 11, CPU)) is torch.Tensor
