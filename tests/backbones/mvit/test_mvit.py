"""MViT beside torchvision's video model with one frame, and its windows; tests/weights/layouts has timm's."""

import re
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from densevit_backbones.mvit.backbone import MViT, Positions
from tests.backbones.references import normed

if TYPE_CHECKING:
    from torchvision.models.video.mvit import MViT as TorchvisionMViT


NANO = ["0.0", "1.0", "2.0", "2.1", "2.2", "3.0"]  # stage and block
RENAMINGS = [  # torchvision's parameter names and ours
    (r"^(blocks\.\d+)\.project\.", r"\1.shortcut2."),
    (r"^conv_proj\.", "patch_embed."),
    (r"^pos_encoding\.class_token$", "class_token"),
    (r"^blocks\.(\d+)\.", lambda m: f"stages.{NANO[int(m[1])]}."),
    (r"\.mlp\.0\.", ".mlp.expand."),
    (r"\.mlp\.3\.", ".mlp.contract."),
    (r"\.attn\.pool_([qkv])\.(pool\.)?weight$", r".attention.pool_\1.weight"),
    (r"\.attn\.pool_([qkv])\.norm_act\.0\.", r".attention.pool_\1.norm."),
    (r"\.attn\.project\.0\.", ".attention.output."),
    (r"\.pool_q\.", ".pool_query."),
    (r"\.pool_k\.", ".pool_key."),
    (r"\.pool_v\.", ".pool_value."),
    (r"\.attn\.", ".attention."),
]


def load(mvit: MViT, weights: dict[str, Tensor]) -> None:
    """Loads all weights of torchvision's model except its classifier's; every tensor of ours must be set."""
    state, given = mvit.state_dict(), {}
    for key, value in weights.items():
        if key.startswith(("norm.", "head.")):
            continue
        for pattern, replacement in RENAMINGS:
            key = re.sub(pattern, replacement, key)
        if "attention.qkv." in key:
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                given[key.replace("qkv", name)] = part
        else:
            given[key] = value
    assert given.keys() == {key for key in state if not key.startswith("feature_norms.")}
    mvit.load_state_dict({**state, **{key: value.view(state[key].shape) for key, value in given.items()}})


def torchvision_nano(spatial_size: tuple[int, int]) -> "TorchvisionMViT":
    """torchvision's video model for one frame, with the widths and strides of our nano."""
    from torchvision.models.video.mvit import MSBlockConfig
    from torchvision.models.video.mvit import MViT as TorchvisionMViT

    channels, outgoing = [32, 64, 128, 128, 128, 256], [64, 128, 128, 128, 256, 256]
    blocks = []
    for heads, inputs, outputs, query, key in zip(
        [1, 2, 4, 4, 4, 8], channels, outgoing, [1, 2, 2, 1, 1, 2], [4, 2, 1, 1, 1, 1], strict=True
    ):
        kernel, stride = ([1, 3, 3], [1, query, query]) if query > 1 else ([], [])
        blocks.append(MSBlockConfig(heads, inputs, outputs, kernel, [1, 3, 3], stride, [1, key, key]))
    return TorchvisionMViT(
        spatial_size, 1, blocks, residual_pool=False, residual_with_cls_embed=True, rel_pos_embed=False,
        proj_after_attn=False, patch_embed_kernel=(1, 7, 7), patch_embed_stride=(1, 4, 4),
        patch_embed_padding=(0, 3, 3),
    )  # fmt: skip


def torchvision_features(reference: "TorchvisionMViT", images: Tensor) -> list[Tensor]:
    x = reference.conv_proj(images[:, :, None])
    size = tuple(x.shape[2:])
    x = reference.pos_encoding(x.flatten(2).transpose(1, 2))
    features = []
    for place, block in zip(NANO, reference.blocks, strict=True):
        x, size = block(x, size)
        if place in ("0.0", "1.0", "2.2", "3.0"):
            features.append(x[:, 1:].transpose(1, 2).unflatten(2, size[1:]))
    return features


@pytest.mark.integration
def test_version_1_matches_torchvision(randomise, assert_equal_features):
    """Its blocks are those of the paper's image models, with a frame position besides those of cells."""
    size = (97, 131)
    grid = [-(-side // 4) for side in size]
    mvit, reference = MViT("nano", version=1).eval(), torchvision_nano((4 * grid[0], 4 * grid[1])).eval()
    randomise(mvit)
    randomise(reference)
    encoding, weights = reference.pos_encoding, reference.state_dict()
    for name in ("spatial_pos", "temporal_pos", "class_pos"):
        del weights[f"pos_encoding.{name}"]
    weights["positions.cells"] = (encoding.spatial_pos + encoding.temporal_pos).T
    weights["positions.token"] = encoding.class_pos
    mvit.positions = Positions(grid, 32, class_token=True)  # not square; the constructor only builds square ones
    load(mvit, weights)
    assert_equal_features(
        mvit, lambda x: normed(mvit.feature_norms, torchvision_features(reference, x), 1e-6), torch.randn(2, 3, *size)
    )
