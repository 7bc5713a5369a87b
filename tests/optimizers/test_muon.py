"""Muon against `torch.optim.Muon`, which takes matrices only, and AdamW."""

import pytest
import torch
from torch import nn

import densevit
from densevit.config import OptimSection
from densevit.model import DenseModel
from densevit.training.loop.optim import optimizer_of
from densevit_optimizers import muon
from densevit_optimizers.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(32, 80), (80, 32), (24, 3, 3, 3)])
def test_updates_are_those_of_torch_on_the_flattened_weight(shape, monkeypatch):
    monkeypatch.setattr(muon, "supports_bf16", lambda device_type: True)  # torch's are always in bf16
    start = torch.randn(3, *shape)
    ours = [nn.Parameter(x.clone()) for x in start]
    theirs = [nn.Parameter(x.flatten(1).clone()) for x in start]
    options = {"lr": 0.02, "weight_decay": 0.1}
    optimizer = Muon([{"params": ours, "layer": "linear"}], **options)
    reference = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **options)
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.flatten(1).clone()
        optimizer.step()
        reference.step()
    for a, b, x in zip(ours, theirs, start, strict=True):
        assert (a - x).abs().max() > 1e-3
        torch.testing.assert_close(a.flatten(1), b, atol=2e-4, rtol=1e-3)  # products in bf16, batched here


@pytest.mark.parametrize("shape", [(3, 16, 31), (3, 31, 16), (2, 128, 1152), (2, 300, 8)])
@pytest.mark.parametrize("rank", [None, 3])
def test_the_iterations_of_the_paper_are_computed_in_float32(shape, rank, monkeypatch):
    """Of wide matrices on x x^T alone; singular values of 1 to 1e-4 in one matrix."""
    monkeypatch.setattr(muon, "supports_bf16", lambda device_type: False)
    x = torch.randn(shape)
    if rank is not None:
        x = 1e-3 * x + torch.randn(*shape[:2], rank) @ torch.randn(shape[0], rank, shape[2])
    expected = x.double() / x.double().norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = expected @ expected.mT
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    torch.testing.assert_close(orthogonalised(x).double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("matrices", ["all", "convolutions"])
def test_other_parameters_are_trained_by_adamw(matrices):
    """With `convolutions`, linear layers, too."""
    kernel, linear, bias = (nn.Parameter(torch.randn(shape)) for shape in ((16, 16), (16, 16), (16,)))
    adamws = [bias] if matrices == "all" else [bias, linear]
    references = [nn.Parameter(x.detach().clone()) for x in adamws]
    options = {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.1}
    groups = [{"params": [kernel], "layer": "convolution"}, {"params": [linear], "layer": "linear"}, {"params": [bias]}]
    optimizer = Muon(groups, matrices=matrices, **options)
    adamw = torch.optim.AdamW(references, **options)
    for _ in range(3):
        for parameter in (kernel, linear, bias, *references):
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        adamw.step()
    torch.testing.assert_close(adamws, references, atol=0, rtol=0)
    has_momentum = ["momentum_buffer" in optimizer.state[p] for p in (kernel, linear, bias)]
    assert has_momentum == [True, matrices == "all", False]


def test_matrices_of_a_model_are_in_groups_with_their_rates():
    small = {"classes": nn.Linear(16, 8), "depthwise": nn.Conv2d(32, 32, 5, groups=32), "table": nn.Embedding(32, 32)}
    parts = nn.ModuleDict({"linear": nn.Linear(16, 16), "kernel": nn.Conv2d(3, 16, 3), **small})
    layers = {name: parts.get_submodule(name.partition(".")[0]) for name, _ in parts.named_parameters()}
    kinds = {name: Muon.group_options(layers[name], p)["layer"] for name, p in parts.named_parameters()}
    matrices = {"linear.weight": "linear", "kernel.weight": "convolution"}
    assert {name: kind for name, kind in kinds.items() if kind is not None} == matrices
    model = DenseModel(densevit.create_backbone("swin", variant="nano"), {})
    optimizer = optimizer_of(model, OptimSection(name="muon", lr=1e-3, backbone_lr=1e-4, weight_decay=0.05), 1e-3)
    groups = {(group["layer"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert groups == {("convolution", 1e-4, 0.05), ("linear", 1e-4, 0.05), (None, 1e-4, 0.0)}
