"""GTR: its scans of any map against permuted tokens, the authors' checkpoints, exported files, bad input."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import densevit
from densevit.errors import DensevitError, WeightsError
from densevit.layouts import find
from densevit_backbones.gtr import backbone
from densevit_backbones.gtr.backbone import Block, Gtr
from densevit_checkpoints.key_mapping import describe, translate, translate_back
from densevit_checkpoints.recognition import recognise
from tests.random_weights import randomise


def randomised(gtr: Gtr) -> Gtr:
    """With gates of all strengths."""
    for name, x in randomise(gtr).named_parameters():
        if x.ndim == 1 and "decay" in name:
            torch.nn.init.normal_(x, std=30)
    return gtr.eval()


def brute_force(block: Block, x: Tensor, direction: int) -> Tensor:
    """A block on a map (1, H, W, C) that is never flipped: its tokens are listed in the order of the scan."""
    H, W = x.shape[1:3]
    places = [(i, j) for i in range(H) for j in range(W)]
    if direction >= 2:
        places.sort(key=lambda place: place[::-1])
    if direction % 2:
        places.reverse()
    layer, y = block.attention, block.norm1(x)
    state, mixed = torch.zeros(layer.num_heads, 32, 64, dtype=x.dtype), torch.zeros_like(x)
    for i, j in places:
        token = y[0, i, j]
        query, key, decay, value, gate = (
            part(token).view(layer.num_heads, -1)
            for part in (layer.query, layer.key, layer.decay, layer.value, layer.gate)
        )
        state = state * torch.sigmoid(decay)[..., None] ** (1 / 16) + key[..., None] * value[:, None]
        z = torch.einsum("hd,hdv->hv", query, state) / 32**0.5
        z = z / (z.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm.weight * gate * torch.sigmoid(gate)
        mixed[0, i, j] = layer.output(z.flatten())
    x = x + mixed
    gate, value = block.mlp.expand(block.norm2(x)).chunk(2, -1)
    kernel = block.mlp.depthwise.weight
    kernel = kernel.mT if direction >= 2 else kernel
    kernel = kernel.flip(2, 3) if direction % 2 else kernel
    value = F.conv2d(value.permute(0, 3, 1, 2), kernel, block.mlp.depthwise.bias, padding=1, groups=len(kernel))
    return x + block.mlp.contract(F.silu(gate) * value.permute(0, 2, 3, 1))


@pytest.mark.parametrize("size", [(48, 80), (64, 64), (90, 17)], ids=str)
@torch.no_grad()
def test_blocks_scan_rows_and_columns_both_ways(size):
    gtr, images = randomised(Gtr()).double(), torch.randn(1, 3, *size, dtype=torch.double)
    x, expected = gtr.stem(images).permute(0, 2, 3, 1), []
    assert x.shape[1:3] == (-(-size[0] // 16), -(-size[1] // 16))
    for i, block in enumerate(gtr.blocks):
        x = brute_force(block, x, i % 4)
        expected += [x.permute(0, 3, 1, 2)] if i in (3, 7, 11) else []
    for output, feature in zip(gtr(images), expected, strict=True):
        torch.testing.assert_close(output, feature, rtol=1e-6, atol=1e-6)


@pytest.fixture
def state(project: Path) -> dict[str, Tensor]:
    """Random tensors of the names and shapes of the authors' GTR-S."""
    released = (project / "tests/checkpoints/released/gtrseg_s_coco.txt").read_text().splitlines()
    rows = [line.split() for line in released if line.startswith("backbone.backbone._model.")]
    return {key: torch.randn([int(side) for side in shape.split("x") if side.isdigit()]) for key, shape in rows}


@pytest.mark.parametrize("prefix", ["", "backbone.backbone._model."])
def test_checkpoints_of_the_authors_are_read_and_written(state, prefix):
    state = {key.replace("backbone.backbone._model.", prefix): x for key, x in state.items()}
    layout = recognise(state)
    assert layout.name == "gtr-backbone"
    assert describe(state, layout) == {"backbone": {"name": "gtr", "variant": "s"}}
    done = translate(state, layout)
    assert (done.unknown, done.errors) == ([], []) and len(done.ignored_keys) == 2  # of a norm that is not called
    Gtr("s").load_state_dict(done.tensors)
    back, unknown = translate_back(done.tensors, layout)
    assert not unknown and len(back) == len(state) - 2
    assert all(torch.equal(x, state[prefix + key]) for key, x in back.items())


def test_other_files_are_refused_in_one_line(state):
    state["backbone.backbone._model.blocks.0.mlp.dwconv.weight"] = torch.zeros(500, 1, 3, 3)
    with pytest.raises(WeightsError, match="192 and 500 channels is not a known variant: s 192 512, m"):
        describe(state, find("gtr-backbone"))
    fused = {
        "patch_embed.convs.0.conv_bn_fused.weight": torch.zeros(24, 3, 3, 3),
        "blocks.0.attn.gk_proj.0.weight": torch.zeros(16, 192),
        "blocks.0.mlp.gate_w": torch.zeros(512, 192),
    }
    fused = {f"backbone.backbone._model.{key}": x for key, x in fused.items()}
    assert recognise(fused).name == "gtr-deployed"
    with pytest.raises(WeightsError, match=r"^[^\n]*converted for deployment.*Fix: [^\n]*$"):
        describe(fused, find("gtr-deployed"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "xl"}, "variant"),
        ({"weights": "no/such.pth"}, "no/such.pth"),
        ({"drop_path": 1.0}, "drop_path is 1"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises((DensevitError, ValueError, OSError), match=message) as error:
        densevit.create_backbone("gtr", **options)
    assert len(str(error.value).splitlines()) == 1


def test_an_image_smaller_than_a_patch_is_one_token():
    assert [x.shape for x in Gtr().eval()(torch.randn(1, 3, 5, 9))] == [(1, 192, 1, 1)] * 3


@pytest.mark.integration
@pytest.mark.usefixtures("quick_exports")
def test_a_file_gives_the_models_outputs(tmp_path, monkeypatch):
    """On squares and rectangles, also with decays beyond float32's exponents, and without a loop over tokens.

    Four blocks, one per scan direction.
    """
    import onnx

    monkeypatch.setattr(backbone, "_BLOCKS", 4)
    torch.manual_seed(0)
    predictor = densevit.create_model("gtr", {"x": {"name": "linear"}}, ["a", "b", "c"])
    with torch.no_grad():
        for block in predictor.backbone.blocks:
            block.attention.decay[1].bias.normal_(std=200)
    exported = densevit.export(predictor, tmp_path / "model.onnx")
    assert exported.difference <= 1e-4
    nodes = {node.op_type for node in onnx.load(exported.path).graph.node}
    assert not nodes & {"Loop", "Scan"}
