import copy
import pickle
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import densevit
from densevit.layers.rotary import rotary_table, rotate
from densevit_backbones.vit import ViT
from densevit_backbones.vit.windows import Windows

KINDS = {
    "plain": {},
    "convolutions": {"stem": "conv", "patch_size": 8},
    "sine1d": {"positions": "sine1d", "readout": "add"},
    "rotary windows": {"positions": "rotary", "windows": Windows(3), "registers": 2, "features": (2, 4)},
    "relative windows": {"positions": "relative", "windows": Windows(3), "registers": 2, "features": (2, 4)},
    "everything": {
        "positions": "sine2d",
        "distillation_token": True,
        "readout": "project",
        "layer_scale": 0.5,
        "qk_norm": True,
        "swiglu": True,
        "feature_norm": False,
        "windows": Windows(2, (1, 3)),
        "features": (1, 2, 4),
    },
    "no tokens": {"positions": "none", "class_token": False, "windows": Windows(3, ()), "patch_size": 32},
}
HYBRID = {"stem": "resnet", "readout": "project", "features": (1, 2)}

kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
kinds_and_hybrid = pytest.mark.parametrize("options", [*KINDS.values(), HYBRID], ids=[*KINDS.keys(), "hybrid"])


def nano(**options) -> ViT:
    return densevit.create_backbone("vit", variant="nano", **options)


@kinds_and_hybrid
def test_grids_are_the_size_over_the_stride_rounded_up(options):
    vit = nano(**options).eval()
    for size in [(32, 47), (53, 131), (61, 62), (101, 33), (3, 1)]:
        with torch.no_grad():
            features = vit(torch.randn(1, 3, *size))
        assert [x.shape[1] for x in features] == [*vit.channels]
        assert [tuple(x.shape[2:]) for x in features] == [(-(-size[0] // s), -(-size[1] // s)) for s in vit.strides]


@kinds_and_hybrid
def test_every_parameter_has_a_gradient_and_one_depth(options, randomise):
    vit = nano(**options)
    randomise(vit)
    sum(x.sin().sum() for x in vit(torch.randn(2, 3, 70, 40))).backward()
    assert [name for name, p in vit.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []
    grouped = [id(p) for group in vit.parameter_depths() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in vit.parameters())


def test_layer_depths_increase_from_input_to_output():
    vit = nano(features=(2, 3), readout="project")
    names = {id(p): name for name, p in vit.named_parameters()}
    first, *blocks, last = [{re.sub(r"(\d)\..*", r"\1", names[id(p)]) for p in g} for g in vit.parameter_depths()]
    tokens = {"class_token", "position_table"}
    assert first == {"stem.projection.weight", "stem.projection.bias"} | tokens
    assert blocks == [{"blocks.0"}, {"blocks.1"}, {"blocks.2"}]
    assert last == {"norm.weight", "norm.bias", "readouts.0", "readouts.1"}
    hybrid = nano(**HYBRID)
    assert len(hybrid.parameter_depths()) == 1 + (3 + 4 + 9) + 1 + 2 + 1


@kinds
def test_evaluation_is_deterministic_and_independent_of_the_batch(options, randomise):
    vit = nano(drop_path=0.5, **options).eval()
    randomise(vit)
    images = torch.randn(3, 3, 45, 75)
    with torch.no_grad():
        batch, again, alone = vit(images), vit(images), vit(images[1:2])
    for x, y, z in zip(batch, again, alone, strict=True):
        assert torch.equal(x, y)
        torch.testing.assert_close(x[1:2], z, atol=1e-4, rtol=1e-4)


@kinds_and_hybrid
def test_low_precision_is_finite_and_near_fp32(options, randomise):
    vit = nano(**options).eval()
    randomise(vit)
    images = torch.randn(2, 3, 50, 70)
    exact = vit(images)
    bound = 0.15 if options is HYBRID else 0.06  # fifty more convolutions, each with random weights
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            low = vit(images)
        for x, y in zip(low, exact, strict=True):
            assert x.isfinite().all()
            assert (x.float() - y).norm() < bound * y.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_in_low_precision_is_finite(dtype):
    vit = nano(**KINDS["rotary windows"])
    with torch.autocast("cpu", dtype):
        sum(x.float().square().mean() for x in vit(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad.isfinite().all() for p in vit.parameters())


@kinds
def test_checkpointing_preserves_gradients(options, randomise):
    images = torch.randn(2, 3, 40, 70)
    plain, checkpointed = (nano(checkpointing=on, drop_path=0.3, **options) for on in (False, True))
    randomise(plain)
    checkpointed.load_state_dict(plain.state_dict())
    for vit in (plain, checkpointed):
        torch.manual_seed(1)
        sum(x.sin().sum() for x in vit(images)).backward()
    for (name, p), q in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


@kinds
def test_state_dict_pickle_and_copy_preserve_features(options, randomise):
    vit = nano(**options).eval()
    randomise(vit)
    images = torch.randn(1, 3, 40, 50)
    before = vit(images)
    loaded = nano(**options).eval()
    loaded.load_state_dict(vit.state_dict())
    for other in (loaded, pickle.loads(pickle.dumps(vit)), copy.deepcopy(vit)):
        assert all(torch.equal(x, y) for x, y in zip(before, other(images), strict=True))


@pytest.mark.integration
@kinds
def test_export_preserves_features(options, randomise):
    vit = nano(**{**options, "features": (1, 2)}).eval()
    randomise(vit)
    images = torch.randn(2, 3, 50, 70)
    exported = torch.export.export(vit, (images,)).module()
    for x, y in zip(vit(images), exported(images), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_export_with_dynamic_sizes(positions, randomise):
    vit = nano(positions=positions, features=(1,)).eval()
    randomise(vit)
    sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    exported = torch.export.export(vit, (torch.randn(2, 3, 100, 150),), dynamic_shapes=(sizes,)).module()
    images = torch.randn(3, 3, 70, 45)
    for x, y in zip(vit(images), exported(images), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["rotary windows", "everything"])
def test_compiles_into_one_graph(kind, randomise):
    vit = nano(**{**KINDS[kind], "features": (2,)}).eval()
    randomise(vit)
    images = torch.randn(2, 3, 50, 70)
    compiled = torch.compile(vit, fullgraph=True, backend="aot_eager")
    for x, y in zip(vit(images), compiled(images), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize("positions", ["sine1d", "sine2d", "rotary"])
def test_training_works_after_inference_and_export(positions):
    """Tables created in inference mode, on the meta device or while tracing are not reused."""
    images = torch.randn(1, 3, 70, 90)
    with torch.device("meta"):
        nano(positions=positions)(images.to("meta"))
    with torch.inference_mode():
        nano(positions=positions)(images)
    vit = nano(positions=positions)
    torch.export.export(vit.eval(), (images,), strict=False)
    sum(x.sum() for x in vit.train()(images)).backward()
    assert vit.stem.projection.weight.grad.isfinite().all()


def test_stochastic_depth_rises_linearly_over_the_whole_depth():
    with torch.device("meta"):
        vit = ViT("small", drop_path=0.22, features=(3, 9))
    assert [block.drop_path.rate for block in vit.blocks] == pytest.approx([0.02 * i for i in range(9)])


def test_features_follow_the_selected_blocks(randomise):
    vit = nano(features=(1, 4, 6), feature_norm=False).eval()
    randomise(vit)
    states = []
    for block in vit.blocks:
        block.register_forward_hook(lambda module, inputs, x: states.append(x))
    features = vit(torch.randn(1, 3, 48, 64))
    for x, number in zip(features, (1, 4, 6), strict=True):
        assert torch.equal(x.flatten(2).transpose(1, 2), states[number - 1][:, 1:])
    normed = nano(features=(1, 4, 6)).eval()
    assert len(nano(features=(2, 3)).blocks) == 3
    assert normed.feature_blocks == (1, 4, 6) and nano().feature_blocks == (2, 3, 5, 6)
    assert ViT("tiny").feature_blocks == (3, 6, 9, 12)


@pytest.mark.parametrize("patch", [8, 14, 16, 32])
def test_patches_are_zero_padded(patch, randomise):
    """Each token equals the inner product with its window of the zero-padded image."""
    stem = nano(patch_size=patch).stem
    randomise(stem)
    image = torch.randn(1, 3, 33, 21)
    framed = F.pad(image, (64, 64, 64, 64))
    _, tokens = stem(image)
    assert tokens.shape[1:3] == (-(-33 // patch), -(-21 // patch))
    for row, column in [(0, 0), (1, 0), (tokens.shape[1] - 1, tokens.shape[2] - 1)]:
        top, left = (64 + i * patch for i in (row, column))
        window = framed[0, :, top : top + patch, left : left + patch]
        expected = (stem.projection.weight * window).sum((1, 2, 3)) + stem.projection.bias
        torch.testing.assert_close(tokens[0, row, column], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{"stem": "conv"}, {"positions": "rotary"}, {"patch_size": 14}, HYBRID], ids=str)
def test_padding_to_the_next_multiple_of_the_stride_changes_nothing(options, randomise):
    vit = nano(**options).eval()
    randomise(vit)
    image = torch.randn(1, 3, 37, 51)
    stride = vit.strides[-1]
    padded = F.pad(image, (0, -51 % stride, 0, -37 % stride))
    for x, y in zip(vit(image), vit(padded), strict=True):
        assert torch.equal(x, y[:, :, : x.shape[2], : x.shape[3]])


def test_padding_changes_no_interior_window_before_a_global_block(randomise):
    """An image of 6x6 cells, alone or beside a larger one: windows of 3 cells, the third block global."""
    options = {"positions": "none", "class_token": False, "windows": Windows(3, (3,))}
    vit = nano(features=(1, 2, 3), **options).eval()
    randomise(vit)
    image = torch.randn(1, 3, 96, 96)
    alone, beside = vit(image), vit(F.pad(image, (0, 48, 0, 96)))
    for x, y in zip(alone[:2], beside[:2], strict=True):
        torch.testing.assert_close(x, y[:, :, :6, :6], atol=1e-5, rtol=1e-5)
    assert (alone[2] - beside[2][:, :, :6, :6]).abs().amax(1).min() > 1e-3


def test_tokens_take_part_in_global_attention_only(randomise):
    vit = nano(windows=Windows(2, (2,)), registers=1, features=(2,), layer_scale=0.5)
    randomise(vit)
    windowed, whole = vit.blocks
    x = torch.randn(1, 2 + 3 * 5, 128)
    with torch.no_grad():
        found = windowed(x, (3, 5))[:, :2]
        expected = x[:, :2] + windowed.scale2(windowed.mlp(windowed.norm2(x[:, :2])))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        changed = x.clone()
        changed[:, 0] += torch.randn(128)
        assert torch.equal(windowed(changed, (3, 5))[:, 2:], windowed(x, (3, 5))[:, 2:])
        assert (whole(changed, (3, 5)) - whole(x, (3, 5)))[:, 2:].abs().amax(-1).min() > 1e-4


def test_rotary_windows_use_offsets_on_the_whole_grid(randomise):
    """A windowed block matches attention over the whole grid with positions of the whole grid, masked to windows."""
    grid, M = (4, 6), 2
    vit = nano(positions="rotary", windows=Windows(M), class_token=False)
    randomise(vit)
    attend = vit.blocks[0].attention
    x = torch.randn(2, 24, 128)
    row, column = torch.arange(24) // 6 // M, torch.arange(24) % 6 // M
    same = (row[:, None] == row) & (column[:, None] == column)
    query, key, value = attend.qkv(x).view(2, 24, 3, 4, 32).permute(2, 0, 3, 1, 4)
    table = rotary_table(grid, 32, x.device)
    mixed = F.scaled_dot_product_attention(rotate(query, table), rotate(key, table), value, attn_mask=same)
    expected = attend.output(mixed.transpose(1, 2).reshape(2, 24, 128))
    _, part = vit._rotations(grid, 0, x)
    found = vit.blocks[0]._in_windows(x, M, grid, part)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.integration
def test_nano_learns_on_small_images():
    """Classifies the bright quarter from the mean of a map: 25 steps from random weights."""
    vit = nano(stem="conv", patch_size=16, features=(6,))
    head = nn.Linear(vit.channels[-1], 4)
    optimiser = torch.optim.AdamW([*vit.parameters(), *head.parameters()], lr=5e-4)
    for _ in range(25):
        images, labels = torch.randn(16, 3, 64, 64), torch.randint(4, (16,))
        for image, label in zip(images, labels.tolist(), strict=True):
            top, left = 32 * (label // 2), 32 * (label % 2)
            image[:, top : top + 32, left : left + 32] += 1
        loss = F.cross_entropy(head(vit(images)[0].mean((2, 3))), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readout": "add", "class_token": False}, "readout is 'add', but class_token is false"),
        ({"readout": "project", "class_token": False}, "readout is 'project', but class_token is false"),
        ({"distillation_token": True, "class_token": False}, "distillation_token is true, but class_token is false"),
        ({"registers": -1}, "registers is -1"),
        ({"patch_size": 14, "stem": "conv"}, "patch_size is 14; with stem 'conv' it must be 8 or 16 or 32"),
        ({"patch_size": 8, "stem": "resnet"}, "patch_size is 8; with stem 'resnet' it must be 16"),
        ({"image_size": 0}, "image_size is 0"),
        ({"layer_scale": 0.0}, "layer_scale is 0"),
        ({"drop_path": 1.0}, "drop_path is 1"),
        ({"windows": {"size": 0}}, "size is 0"),
        ({"windows": Windows(4, (7,))}, "global_blocks is [7]; it must be ascending block numbers"),
        ({"windows": Windows(4, ())}, "global_blocks has none"),
        ({"windows": Windows(4, (5,)), "features": (2,)}, "global_blocks has none of the 2 blocks"),
        ({"features": ()}, "features is []"),
        ({"features": (3, 3)}, "features is [3, 3]"),
        ({"features": (0, 1)}, "features is [0, 1]; it must be ascending block numbers, from 1 to 6"),
    ],
)
def test_inconsistent_options_raise(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        nano(**options)


@pytest.mark.parametrize(
    ("option", "value"), [("variant", "giga"), ("patch_size", 12), ("stem", "mlp"), ("positions", "2d"), ("readout", 1)]
)
def test_invalid_options_raise_before_construction(option, value):
    with pytest.raises(densevit.DensevitError, match=option):
        densevit.create_backbone("vit", **{option: value})
