"""CeiT beside the authors' formulation, written out by their names of tensors; the layouts of its weights."""

from itertools import count

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import WeightsError
from densevit.layouts import find
from densevit_checkpoints.key_mapping import describe, translate_back
from densevit_papers.ceit import CeiT
from tests.checkpoints.layouts.translations import loaded
from tests.gradient_comparison import assert_same_with_gradients
from tests.random_weights import randomise


def by_hand(state: dict[str, Tensor], images: Tensor, heads: int) -> tuple[list[Tensor], Tensor]:
    """The cells after each block (B, C, H, W), and the result of LCA (B, C), from the authors' tensors.

    images: (B, 3, H, W), multiples of 16.
    """

    def part(name: str, *kinds: str) -> list[Tensor]:
        return [state[f"{name}.{kind}"] for kind in kinds]

    def batch_norm(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(x, *part(name, "running_mean", "running_var", "weight", "bias"))

    def layer_norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *part(name, "weight", "bias"), eps=1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        weight, bias = part(name, "weight", "bias")
        return F.linear(x, weight.flatten(1), bias)

    def attention(x: Tensor, name: str, queries: slice) -> Tensor:
        parts = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in linear(x, f"{name}.attn.qkv").chunk(3, dim=-1))
        query, key, value = parts  # each (B, heads, N, D)
        scores = query[:, :, queries] @ key.transpose(2, 3) / key.shape[3] ** 0.5
        return linear((scores.softmax(-1) @ value).transpose(1, 2).flatten(2), f"{name}.attn.proj")

    def leff(x: Tensor, name: str) -> Tensor:
        kernel = state[f"{name}.conv2.weight"]
        for number in (1, 2, 3):
            if number == 2:
                x = F.conv2d(x, kernel, state[f"{name}.conv2.bias"], padding=1, groups=len(kernel))
            else:
                x = linear(x.movedim(1, 3), f"{name}.conv{number}").movedim(3, 1)
            x = batch_norm(x, f"{name}.bn{number}")
            x = F.gelu(x) if number < 3 else x
        return x

    x = batch_norm(F.conv2d(images, state["i2t.backbone.conv.weight"], stride=2, padding=3), "i2t.backbone.bn")
    x = F.conv2d(F.max_pool2d(x, 3, 2, 1), state["i2t.proj.weight"], state["i2t.proj.bias"], stride=4)
    size, table = x.shape[2:], state["pos_embed"][:, 1:]
    side = round(table.shape[1] ** 0.5)
    positions = F.interpolate(
        table.view(1, side, side, -1).permute(0, 3, 1, 2).float(), size=size, mode="bicubic", align_corners=False
    )
    x = (x + positions.double()).flatten(2).transpose(1, 2)
    token = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(x), -1, -1)
    maps, tokens = [], []
    for i in count():
        if f"blocks.{i}.norm1.weight" not in state:
            break
        both = torch.cat([token, x], dim=1)
        both = both + attention(layer_norm(both, f"blocks.{i}.norm1"), f"blocks.{i}", slice(None))
        y = layer_norm(both, f"blocks.{i}.norm2")
        cells = leff(y[:, 1:].transpose(1, 2).unflatten(2, size), f"blocks.{i}.leff")
        token, x = both[:, :1] + y[:, :1], both[:, 1:] + cells.flatten(2).transpose(1, 2)  # the token skips LeFF
        maps.append(x.transpose(1, 2).unflatten(2, size))
        tokens.append(token)
    x = torch.cat(tokens, dim=1) + state["pos_layer_embed"]
    token = x[:, -1:] + attention(layer_norm(x, "lca.norm1"), "lca", slice(-1, None))
    hidden = F.gelu(linear(layer_norm(token, "lca.norm2"), "lca.feedforward.fc1"))
    return maps, layer_norm(token + linear(hidden, "lca.feedforward.fc2"), "norm")[:, 0]


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Tensor]:
    """Random tensors with the names of the authors' classifier, which `by_hand` reads by them; of 96 pixels."""
    torch.manual_seed(0)
    ceit = randomise(CeiT("nano", image_size=96, readout="lca"))
    state, unknown = translate_back(ceit.state_dict(), find("ceit-lca"))
    assert unknown == []
    state |= {"head.weight": torch.randn(5, 128), "head.bias": torch.randn(5)}
    state["pos_embed"] = torch.randn_like(state["pos_embed"])  # also of the class token
    return {key: x.double() if x.is_floating_point() else x for key, x in state.items()}


def of_file(state: dict[str, Tensor], layout: str, **options: object) -> CeiT:
    """The backbone of a checkpoint, with random norms of its features, which a classifier lacks."""
    ceit = loaded(state, layout, "ceit", **options).double()
    randomise(ceit.feature_norms)
    return ceit


@pytest.mark.parity("ceit-lca")
def test_features_and_gradients_match_the_authors_formulation(checkpoint):
    """With LCA, which is added to the last map, and a resized table of positions."""
    ceit = of_file(checkpoint, "ceit-lca", features=(2, 3, 6))
    images = torch.randn(2, 3, 48, 80, dtype=torch.float64)
    own, other = (images.clone().requires_grad_() for _ in range(2))
    maps, token = by_hand(checkpoint, other, heads=4)
    expected = [
        F.layer_norm(maps[i].movedim(1, 3), (128,), norm.weight, norm.bias, 1e-6).movedim(3, 1)
        for i, norm in zip((1, 2, 5), ceit.feature_norms, strict=True)
    ]
    expected[-1] = expected[-1] + token[:, :, None, None]
    assert_same_with_gradients(ceit(own), expected, [own], [other], 1e-6, of_gradients=1e-5)

    # Of the exported tensors, a token's position is added to the token, whose position is then 0.
    back, unknown = translate_back(ceit.state_dict(), find("ceit-lca"))
    assert unknown == [] and checkpoint.keys() - back.keys() == {"head.weight", "head.bias"}
    tokens = ("cls_token", "pos_embed")
    assert all(torch.equal(back[key], checkpoint[key]) for key in back if key not in tokens)
    assert torch.equal(back["pos_embed"][:, 1:], checkpoint["pos_embed"][:, 1:]) and not back["pos_embed"][:, 0].any()
    torch.testing.assert_close(
        back["cls_token"], checkpoint["cls_token"] + checkpoint["pos_embed"][:, :1], check_dtype=False
    )

    state = {key: tensor for key, tensor in checkpoint.items() if not key.startswith("blocks.5.")}
    with pytest.raises(WeightsError, match="A CeiT of 128 channels and 5 blocks is not a known variant"):
        describe(state, find("ceit"))


@pytest.mark.parity("ceit")
def test_lca_is_left_out_by_default_and_changes_the_last_map_only(checkpoint):
    state, images = checkpoint, torch.randn(1, 3, 96, 96, dtype=torch.float64)
    plain, with_lca = of_file(state, "ceit"), of_file(state, "ceit-lca")
    with_lca.feature_norms.load_state_dict(plain.feature_norms.state_dict())
    assert plain.class_attention is None
    *first, last = plain(images)
    *same, changed = with_lca(images)
    assert all(torch.equal(x, y) for x, y in zip(first, same, strict=True))
    _, token = by_hand(state, images, heads=4)
    torch.testing.assert_close(changed - last, token[:, :, None, None].expand_as(last), atol=1e-6, rtol=1e-6)
