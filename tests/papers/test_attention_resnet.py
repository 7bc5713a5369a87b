"""The ResNet of attention layers: torchvision's without attention, and its layers beside the papers' equations."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit_papers.attention_resnet import AttentionResNet
from densevit_papers.axial import Axial, AxialAttention
from densevit_papers.lr_net import LocalRelation
from densevit_papers.non_local import NonLocal, NonLocalBlock
from densevit_papers.sagan import SelfAttention, SelfAttentionBlock
from densevit_papers.sasa import LocalAttention, StandAlone
from tests.backbones.references import stage_maps
from tests.papers.small_models import neighbours
from tests.random_weights import randomise


@pytest.mark.integration
def test_without_attention_it_is_torchvision_s_resnet():
    """Features, gradients and running statistics in training are bit-identical."""
    from torchvision.models.resnet import Bottleneck, ResNet

    ours, reference = AttentionResNet(26).train(), ResNet(Bottleneck, [1, 2, 4, 1]).train()
    randomise(reference)
    ours.load_state_dict({key: x for key, x in reference.state_dict().items() if not key.startswith("fc.")})
    images = torch.randn(2, 3, 40, 45)
    found, expected = ours(images), stage_maps(reference, images)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    for features in (found, expected):
        torch.stack([x.square().mean() for x in features]).sum().backward()
    gradients = {name: p.grad for name, p in reference.named_parameters() if not name.startswith("fc.")}
    assert all(torch.equal(p.grad, gradients[name]) for name, p in ours.named_parameters())
    assert all(torch.equal(x, reference.state_dict()[key]) for key, x in ours.state_dict().items())


@pytest.mark.parametrize(
    ("build", "facts"),
    [
        (lambda: AttentionResNet(sagan=SelfAttention(), axial=Axial()), "sagan, axial .* at most one"),
        (lambda: AttentionResNet(width=0), "width is 0; .* one channel"),
        (lambda: AttentionResNet(26, non_local=NonLocal(5)), "non_local.blocks 5 .*depth 50 or 101.* 26"),
        (lambda: AttentionResNet(26, 8, sasa=StandAlone()), "sasa: 8 channels .*num_heads, 16"),
        (lambda: Axial(span=64), "span is 64; .*odd"),
        (lambda: StandAlone(kernel_size=4), "kernel_size is 4; .*odd"),
    ],
)
def test_invalid_options_are_refused(build, facts):
    with pytest.raises(ValueError, match=facts):
        build()


def norm_by_hand(norm: nn.BatchNorm2d, channel: int, x: torch.Tensor) -> torch.Tensor:
    scale = norm.weight[channel] / (norm.running_var[channel] + norm.eps).sqrt()
    return (x - norm.running_mean[channel]) * scale + norm.bias[channel]


def line_by_hand(layer: AxialAttention, x: torch.Tensor) -> torch.Tensor:
    """A row or column (C, L), one head and one cell o at a time, with a batch norm of each term (section 4.1)."""
    C, L = x.shape
    D, reach, heads = C // layer.num_heads, layer.reach, layer.num_heads
    projected = layer.qkv.weight[:, :, 0, 0] @ x
    projected = torch.stack([norm_by_hand(layer.qkv_norm, c, row) for c, row in enumerate(projected)])
    r_q, r_k, r_v = layer.relative.split([D // 2, D // 2, D])
    y = torch.zeros(C, L, dtype=x.dtype)
    for head in range(heads):
        q, k, v = projected[2 * D * head : 2 * D * (head + 1)].split([D // 2, D // 2, D])
        for o in range(L):
            near = [p for p in range(L) if abs(p - o) <= reach]
            scores = []
            for p in near:  # tables of queries and values are in the order of o - p, those of keys in that of p - o
                terms = (q[:, o] @ k[:, p], q[:, o] @ r_q[:, o - p + reach], k[:, p] @ r_k[:, p - o + reach])
                scores.append(
                    sum(norm_by_hand(layer.similarity_norm, n * heads + head, t) for n, t in enumerate(terms))
                )
            weights = torch.stack(scores).softmax(0)
            content = sum(w * v[:, p] for w, p in zip(weights, near, strict=True))
            position = sum(w * r_v[:, o - p + reach] for w, p in zip(weights, near, strict=True))
            for d in range(D):
                channel = 2 * (head * D + d)
                y[head * D + d, o] = norm_by_hand(layer.output_norm, channel, content[d])
                y[head * D + d, o] += norm_by_hand(layer.output_norm, channel + 1, position[d])
    return y


@pytest.mark.parametrize(("axis", "reach"), [("height", 6), ("width", 1)])
def test_axial_attention_matches_equation_4(axis, reach):
    """With tables larger than the map, and smaller, where cells further away are not attended to."""
    layer = AxialAttention(8, 2, reach, axis).double().eval()
    randomise(layer)
    x = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        y = layer(x)
        for b in range(2):
            if axis == "height":
                expected = torch.stack([line_by_hand(layer, x[b, :, :, j]) for j in range(5)], dim=2)
            else:
                expected = torch.stack([line_by_hand(layer, x[b, :, i]) for i in range(4)], dim=1)
            torch.testing.assert_close(y[b], expected)


def local_attention_by_hand(layer: LocalAttention, x: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W): y_o = sum_p softmax_p(q_o k_p + q_o r_(p - o)) v_p, for each head."""
    K, heads = layer.kernel_size, layer.num_heads
    query, key, value = (F.conv2d(x, part.weight) for part in (layer.query, layer.key, layer.value))
    key, value = (neighbours(y, K).unflatten(1, (heads, -1)) for y in (key, value))  # (B, heads, D, K * K, N)
    rows, columns = layer.row_embeddings[:, None], layer.column_embeddings[None]
    r = torch.cat([rows.expand(-1, K, -1), columns.expand(K, -1, -1)], dim=2).flatten(0, 1)
    scores = torch.einsum("bhdn,bhdkn->bhkn", query.flatten(2).unflatten(1, (heads, -1)), key + r.T[..., None])
    inside = neighbours(torch.ones_like(x[:, :1]), K) > 0
    weights = scores.masked_fill(~inside, -math.inf).softmax(2)
    return torch.einsum("bhkn,bhdkn->bhdn", weights, value).reshape(x.shape)


@pytest.mark.parametrize(("kernel_size", "num_heads", "size"), [(3, 2, (5, 6)), (7, 1, (4, 9))])
def test_stand_alone_attention_matches_equation_3(kernel_size, num_heads, size):
    layer = LocalAttention(8, kernel_size, num_heads).double()
    randomise(layer)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    torch.testing.assert_close(layer(x), local_attention_by_hand(layer, x))


SIMILARITIES = {
    "squared_difference": lambda q, k: -((q - k) ** 2),
    "absolute_difference": lambda q, k: -abs(q - k),
    "multiplication": lambda q, k: q * k,
}


def layer_by_hand(layer: LocalRelation, x: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W): each cell's neighbours in a column, one group of channels at a time."""
    K, s, m = layer.kernel_size, layer.stride, layer.sharing
    query, key = F.conv2d(x, layer.query.weight), F.conv2d(x, layer.key.weight)
    steps = torch.linspace(-1, 1, K, dtype=x.dtype)
    prior = layer.geometry[2](layer.geometry[0](torch.cartesian_prod(steps, steps)).relu())  # (K * K, G)
    cells, inside = neighbours(x, K), neighbours(torch.ones_like(x[:, :1]), K) > 0
    groups = []
    for g in range(query.shape[1]):
        scores = SIMILARITIES[layer.similarity](query[:, g].flatten(1)[:, None], neighbours(key[:, g : g + 1], K)[:, 0])
        weights = (scores + prior[:, g, None]).masked_fill(~inside[:, 0], -math.inf).softmax(1)
        groups.append((cells[:, g * m : (g + 1) * m] * weights[:, None]).sum(2))
    y = torch.cat(groups, dim=1).view_as(x)[..., ::s, ::s]
    return F.conv2d(y, layer.output.weight)


@pytest.mark.parametrize(
    ("similarity", "channels", "stride", "size"),
    [
        ("squared_difference", 8, 1, (5, 6)),
        ("absolute_difference", 10, 2, (5, 8)),  # groups of 4, 4 and 2
        ("multiplication", 8, 2, (4, 5)),
    ],
)
@torch.no_grad()
def test_local_relations_match_the_equations(similarity, channels, stride, size):
    layer = LocalRelation(channels, 5, 4, similarity, stride).double()
    randomise(layer)
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer_by_hand(layer, x))


def non_local_by_hand(block: NonLocalBlock, x: torch.Tensor) -> torch.Tensor:
    """One image (C, H, W), one cell i at a time: y_i = sum_j f(x_i, x_j) g(x_j) / C(x), z_i = BN(W y_i) + x_i."""
    C, H, W = x.shape
    keys = F.max_pool2d(x, 2, ceil_mode=True) if block.subsampling else x  # those at the border may be incomplete
    keys = keys.flatten(1).T  # (S, C)

    def linear(layer: nn.Conv2d, cells: torch.Tensor) -> torch.Tensor:
        return cells @ layer.weight[:, :, 0, 0].T + layer.bias

    norm, results = block.norm, []
    for cell in x.flatten(1).T:
        if block.pairwise == "gaussian":
            f = (keys @ cell).exp()
        elif block.pairwise == "dot_product":
            f = linear(block.phi, keys) @ linear(block.theta, cell)
        else:
            f = (linear(block.phi, keys) @ linear(block.theta, cell) / math.sqrt(C // 2)).exp()
        total = len(keys) if block.pairwise == "dot_product" else f.sum()
        y = linear(block.output, (f[:, None] * linear(block.g, keys)).sum(0) / total)
        y = (y - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        results.append(y + cell)
    return torch.stack(results, dim=1).view(C, H, W)


@pytest.mark.parametrize(
    ("pairwise", "subsampling", "size"),
    [("embedded_gaussian", True, (5, 3)), ("gaussian", True, (4, 6)), ("dot_product", False, (3, 4))],
)
def test_non_local_blocks_match_the_equations(pairwise, subsampling, size):
    block = NonLocalBlock(6, pairwise, subsampling).double().eval()
    randomise(block)
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    for image, found in zip(x, block(x), strict=True):
        torch.testing.assert_close(found, non_local_by_hand(block, image))


def block_by_hand(block: SelfAttentionBlock, x: torch.Tensor) -> torch.Tensor:
    """One image (C, H, W), one query j at a time: o_j = v(sum_i beta_ji h(x_i)), y_j = gamma o_j + x_j."""
    C, H, W = x.shape
    f, h = (torch.einsum("dc,chw->dhw", layer.weight[:, :, 0, 0], x) for layer in (block.key, block.value))
    if block.pooling:  # over 2 x 2 cells; those at the right and bottom may be incomplete
        f, h = (F.max_pool2d(y, 2, ceil_mode=True) for y in (f, h))
    f, h, results = f.flatten(1), h.flatten(1), []
    for cell in x.flatten(1).T:
        scores = f.T @ (block.query.weight[:, :, 0, 0] @ cell)
        beta = scores.exp() / scores.exp().sum()
        results.append(block.gamma * (block.output.weight[:, :, 0, 0] @ (h @ beta)) + cell)
    return torch.stack(results, dim=1).view(C, H, W)


@pytest.mark.parametrize(("pooling", "reduction", "size"), [(True, 2, (4, 6)), (True, 8, (5, 3)), (False, 8, (3, 4))])
def test_blocks_of_sagan_match_the_equations(pooling, reduction, size):
    block = SelfAttentionBlock(16, pooling, reduction).double()
    randomise(block)
    x = torch.randn(2, 16, *size, dtype=torch.float64)
    for image, found in zip(x, block(x), strict=True):
        torch.testing.assert_close(found, block_by_hand(block, image))
