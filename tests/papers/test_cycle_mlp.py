"""CycleMLP beside deformable convolutions with the authors' tensors."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.layouts import find
from densevit_checkpoints.key_mapping import canonical, translate, translate_back
from densevit_checkpoints.recognition import recognise
from densevit_papers.cycle_mlp import CycleMlp
from tests.random_weights import randomise

LAYOUT = find("cycle-mlp")


def offsets(channels: int, dim: int) -> Tensor:
    """(1, 2 C, 1, 1): the (y, x) offsets of each channel on a stair of three steps that begins at the centre."""
    stair = [(0, 0), (0, 1), (0, -1)] if dim == 2 else [(0, 0), (1, 0), (-1, 0)]
    return torch.tensor([stair[c % 3] for c in range(channels)], dtype=torch.float64).view(1, -1, 1, 1)


def authors_state() -> dict[str, Tensor]:
    """Random tensors with the names of the authors' classifier, which `reference` reads by them."""
    state, unknown = translate_back(randomise(CycleMlp("nano")).state_dict(), LAYOUT)
    assert not unknown
    for block in {key.partition(".attn.")[0] for key in state if ".attn." in key}:
        C = len(state[f"{block}.norm1.weight"])
        state |= {f"{block}.attn.{name}.offset": offsets(C, dim) for name, dim in (("sfc_h", 2), ("sfc_w", 1))}
    state |= {"head.weight": torch.randn(10, 3), "head.bias": torch.randn(10)}
    return {key: tensor.double().clone() for key, tensor in state.items()}


def reference(state: Mapping[str, Tensor], model: CycleMlp, images: Tensor) -> list[Tensor]:
    """The features from the authors' tensors, by deformable convolutions; the first three norms are the model's."""
    from torchvision.ops import deform_conv2d

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def deformed(name: str, x: Tensor) -> Tensor:
        offset = state[f"{name}.offset"].expand(len(x), -1, *x.shape[1:3])
        y = deform_conv2d(x.permute(0, 3, 1, 2), offset, state[f"{name}.weight"], state[f"{name}.bias"])
        return y.permute(0, 2, 3, 1)

    def block(name: str, x: Tensor) -> Tensor:
        y = norm(f"{name}.norm1", x)
        branches = deformed(f"{name}.attn.sfc_h", y), deformed(f"{name}.attn.sfc_w", y), linear(f"{name}.attn.mlp_c", y)
        mean = sum(branches).mean((1, 2))  # (B, C)
        scores = linear(f"{name}.attn.reweight.fc2", F.gelu(linear(f"{name}.attn.reweight.fc1", mean)))
        weights = scores.view(*mean.shape, 3).softmax(-1)  # neighbouring scores are those of one channel
        y = torch.einsum("nbhwc,bcn->bhwc", torch.stack(branches), weights)
        x = x + linear(f"{name}.attn.proj", y)
        y = F.gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", x)))
        return x + linear(f"{name}.mlp.fc2", y)

    H, W = (-(-side // 4) * 4 for side in images.shape[2:])
    x = F.pad(images, (0, W - images.shape[3], 0, H - images.shape[2]))
    features = []
    for i, stage in enumerate(model.stages):
        name, stride, padding = ("patch_embed.proj", 4, 2) if i == 0 else (f"network.{2 * i - 1}.proj", 2, 1)
        x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding).permute(0, 2, 3, 1)
        for b in range(len(stage)):
            x = block(f"network.{2 * i}.{b}", x)
        y = model.feature_norms[i](x) if i < 3 else norm("norm", x)
        features.append(y.permute(0, 3, 1, 2))
        x = x.permute(0, 3, 1, 2)
    return features


@pytest.mark.parity("cycle-mlp")
@pytest.mark.parametrize("size", [(37, 70), (5, 9)], ids=str)
def test_features_and_gradients_match_deformable_convolutions(size: tuple[int, int]) -> None:
    """With the authors' tensors, read by the layout; gradients of each tensor too."""
    state = {key: x.requires_grad_(not key.endswith("offset")) for key, x in authors_state().items()}
    model = CycleMlp("nano").double().eval()
    detached = {key: x.detach() for key, x in state.items()}
    assert recognise(detached) == LAYOUT
    missing = model.load_state_dict(translate(canonical(detached, LAYOUT), LAYOUT).tensors, strict=False)
    assert missing.missing_keys == [f"feature_norms.{i}.{name}" for i in range(3) for name in ("weight", "bias")]
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    found, expected = model(images), reference(state, model, images)
    weights = [torch.randn_like(x) for x in found]
    for stride, x, y in zip(model.strides, found, expected, strict=True):
        assert x.shape[2:] == tuple(-(-side // stride) for side in size) and y.std() > 0.1
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)
    for features in (found, expected):
        torch.stack([(x * weight).mean() for x, weight in zip(features, weights, strict=True)]).sum().backward()
    gradients = {key: x.grad for key, x in state.items() if x.grad is not None}
    for key, gradient in translate(canonical(gradients, LAYOUT), LAYOUT).tensors.items():
        torch.testing.assert_close(model.get_parameter(key).grad, gradient, rtol=1e-7, atol=1e-10)
    assert len(gradients) == sum(not key.endswith("offset") and not key.startswith("head") for key in state)
