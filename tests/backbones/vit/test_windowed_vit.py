"""The backbones and the projector of RF-DETR and LW-DETR beside transformers', and windows of rectangles by a mask."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import densevit
from densevit.errors import WeightsError
from densevit.interfaces import CheckpointLayout, OtherKeys, SpecialTensors
from densevit.weights.key_mapping import canonical, translate, translate_back
from densevit.weights.state_dict_io import part
from densevit_backbones.vit import ViT, WindowedViT
from densevit_backbones.vit.variants import VARIANTS, Variant
from densevit_heads.rf_detr import backbone_checkpoints, projector_checkpoints

RF_DETR = CheckpointLayout(
    "rf-detr",
    ("backbone.0.encoder.encoder.embeddings.cls_token",),
    (*backbone_checkpoints.RF_DETR, *projector_checkpoints.AUTHORS),
    backbone_checkpoints.describe,
    other_keys=OtherKeys(spellings=(*backbone_checkpoints.RF_DETR_SPELLINGS, *projector_checkpoints.RF_DETR_SPELLINGS)),
    special=SpecialTensors(
        no_effect=backbone_checkpoints.RF_DETR_NO_EFFECT, rearrange=backbone_checkpoints.RF_DETR_REARRANGE
    ),
)
RF_DETR_BASE = replace(RF_DETR, special=replace(RF_DETR.special, no_effect=backbone_checkpoints.RF_DETR_BASE_NO_EFFECT))
LW_DETR = CheckpointLayout(
    "lw-detr",
    ("model.backbone.backbone.encoder.layer.0.attention.attention.query.weight",),
    (*backbone_checkpoints.TRANSFORMERS_LW_DETR, *projector_checkpoints.TRANSFORMERS_LW_DETR),
    backbone_checkpoints.describe,
    other_keys=OtherKeys(spellings=backbone_checkpoints.TRANSFORMERS_LW_DETR_SPELLINGS),
)


@pytest.fixture(autouse=True)
def small_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "nano", Variant(48, 12, 4, 0.0))
    monkeypatch.setitem(VARIANTS, "lw_tiny", Variant(48, 6, 12, 0.0))
    for name, depth in (("nano", 12), ("lw_tiny", 6)):
        monkeypatch.setitem(backbone_checkpoints.VARIANTS, name, (48, depth))


def rf_detr(features: list[int], num_windows: int, patch_size: int) -> Any:
    from transformers import RfDetrConfig, RfDetrDinov2Config, RfDetrForObjectDetection

    backbone = RfDetrDinov2Config(
        hidden_size=48, num_attention_heads=4, image_size=4 * patch_size, patch_size=patch_size, out_indices=features,
        num_windows=num_windows,
    )  # fmt: skip
    return RfDetrForObjectDetection(RfDetrConfig(backbone_config=backbone, d_model=32, decoder_layers=1))


def lw_detr(scales: list[float], width: int = 48) -> Any:
    from transformers import LwDetrConfig, LwDetrForObjectDetection, LwDetrViTConfig

    backbone = LwDetrViTConfig(
        hidden_size=width, num_hidden_layers=6, pretrain_image_size=96, window_block_indices=[0, 2, 4],
        out_indices=[2, 4, 6],
    )  # fmt: skip
    config = LwDetrConfig(backbone_config=backbone, projector_scale_factors=scales, d_model=32, decoder_layers=1)
    return LwDetrForObjectDetection(config)


CASES: dict[str, tuple[Callable[[], Any], CheckpointLayout, tuple[int, int]]] = {
    "rf-detr": (lambda: rf_detr([3, 6, 9, 12], 2, 16), RF_DETR, (64, 64)),
    "rf-detr, resized": (lambda: rf_detr([3, 6, 9, 12], 2, 16), RF_DETR, (96, 96)),
    "rf-detr base": (lambda: rf_detr([2, 5, 8, 11], 4, 14), RF_DETR_BASE, (112, 112)),
    "rf-detr, one window": (lambda: rf_detr([3, 6, 9, 12], 1, 12), RF_DETR, (48, 108)),  # its windows are of squares
    "lw-detr": (lambda: lw_detr([2.0, 1.0, 0.5]), LW_DETR, (128, 192)),
    "lw-detr, of many channels": (lambda: lw_detr([2.0, 0.5], 516), LW_DETR, (64, 128)),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", CASES)
def test_levels_and_gradients_match_transformers(name, randomise, monkeypatch):
    """Of the images and of all parameters; tensors are written back as they were."""
    make, layout, size = CASES[name]
    theirs = make().eval()
    width = theirs.config.backbone_config.hidden_size
    monkeypatch.setitem(VARIANTS, "lw_tiny", Variant(width, 6, 12, 0.0))
    monkeypatch.setitem(backbone_checkpoints.VARIANTS, "lw_tiny", (width, 6))
    randomise(theirs)
    config, theirs = theirs.config.to_dict(), theirs.model.backbone
    state = canonical({f"model.backbone.{key}": x for key, x in theirs.state_dict().items()}, layout)
    done = translate(state, layout)
    assert (done.unknown, done.errors) == ([], [])
    backbone, neck = built(done.tensors, config)
    images = torch.randn(2, 3, *size)
    own, other = images.clone().requires_grad_(), images.clone().requires_grad_()
    found = neck(backbone(own), torch.zeros(2, *size, dtype=torch.bool))
    outputs = theirs(other, torch.ones(2, *size))
    expected = [outputs[0]] if layout is not LW_DETR else [level for level, _ in outputs]
    weights = [torch.randn_like(x) for x in expected]
    for levels in (found, expected):
        torch.stack([(x * w).sum() for x, w in zip(levels, weights, strict=True)]).sum().backward()
    for x, y in [*zip(found, expected, strict=True), (own.grad, other.grad)]:
        close(x, y)
    named = {"backbone": backbone, "necks.detection": neck}
    ours = {f"{name}.{key}": x.grad for name, module in named.items() for key, x in module.named_parameters()}
    written, unknown = translate_back(ours, layout)
    gradients = {f"model.backbone.{key}": x.grad for key, x in theirs.named_parameters() if x.grad is not None}
    gradients = canonical(gradients, layout)
    assert unknown == [] and written.keys() == gradients.keys()
    for key, gradient in gradients.items():
        if "key.bias" not in key:  # of which softmax takes no notice
            first = 1 if "position_embeddings" in key else 0  # that of the class token is the token's
            close(written[key][:, first:] if first else written[key], gradient[:, first:] if first else gradient)
    back, _ = translate_back(done.tensors, layout)
    assert all(torch.equal(x, state[key]) for key, x in back.items() if not key.endswith(("cls_token", "embeddings")))


def close(x: Tensor, y: Tensor) -> None:
    """Within 1e-4 of the range of the reference."""
    assert x.shape == y.shape
    x, y = x.detach(), y.detach()
    assert float((x - y).abs().max()) < 1e-4 * float(y.max() - y.min())


def built(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[densevit.Backbone, densevit.Neck]:
    """The backbone and the neck that tensors with our keys and config.json describe, in evaluation mode."""
    own, other = part(tensors, "backbone."), part(tensors, "necks.detection.")
    saved = backbone_checkpoints.saved({"config": config}) | projector_checkpoints.saved({"config": config})
    options = backbone_checkpoints.describe(own)
    options |= {name.removeprefix("backbone."): x for name, x in saved.items() if name.startswith("backbone.")}
    backbone = densevit.create_backbone(**options).eval()
    backbone.load_state_dict(own)
    options = projector_checkpoints.describe(other, backbone.strides[0])
    options |= {name.rpartition(".")[2]: x for name, x in saved.items() if ".neck." in name}
    neck = densevit.create_neck(options.pop("name"), backbone.channels, backbone.strides, **options).eval()
    missing = neck.load_state_dict(other, strict=False).missing_keys
    assert all(key.endswith("num_batches_tracked") for key in missing)
    return backbone, neck


AUTHORS = [  # transformers' names of LW-DETR's backbone and projector -> the authors'
    (r"^model\.backbone\.backbone\.embeddings\.position_embeddings$", "backbone.0.encoder.pos_embed"),
    (r"^model\.backbone\.backbone\.embeddings\.projection\.", "backbone.0.encoder.patch_embed.proj."),
    (r"^model\.backbone\.backbone\.encoder\.layer\.", "backbone.0.encoder.blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.(q|v)_proj\.bias$", r".attn.\1_bias"),
    (r"\.intermediate\.", ".mlp."),
    (r"^model\.backbone\.projector\.scale_layers\.", "backbone.0.projector."),
    (r"\.projector\.(\d)\.sampling_layers\.(\d)\.layers\.", r".projector.stages_sampling.\1.\2."),
    (r"\.projector\.(\d)\.projector_layer\.", r".projector.stages.\1.0."),
    (r"\.projector\.(\d)\.layer_norm\.", r".projector.stages.\1.1."),
    (r"\.bottlenecks\.", ".m."),
    (r"\.conv(\d)\.", r".cv\1."),
    (r"^(backbone\.0\.projector\..*)\.norm\.", r"\1.bn."),
]  # fmt: skip


def test_the_authors_names_of_lw_detr_are_read():
    """Query, key and value are one weight there."""
    theirs = {f"model.{key}": x for key, x in lw_detr([2.0, 0.5], 516).model.state_dict().items() if "backbone" in key}
    state = {}
    for key, tensor in theirs.items():
        for pattern, replacement in AUTHORS:
            key = re.sub(pattern, replacement, key)
        state[key] = tensor
    for i in range(6):
        parts = [state.pop(f"backbone.0.encoder.blocks.{i}.attention.{name}_proj.weight") for name in "qkv"]
        state[f"backbone.0.encoder.blocks.{i}.attn.qkv.weight"] = torch.cat(parts)
    lines = (*backbone_checkpoints.LW_DETR, *projector_checkpoints.AUTHORS)
    done = translate(state, CheckpointLayout("authors", (), lines, backbone_checkpoints.describe))
    expected = translate(canonical(theirs, LW_DETR), LW_DETR).tensors
    assert (done.unknown, done.errors) == ([], []) and done.tensors.keys() == expected.keys()
    assert all(torch.equal(x, expected[key]) for key, x in done.tensors.items())


@pytest.mark.parametrize(("variant", "registers"), [("nano", 2), ("lw_tiny", 0)])
@torch.no_grad()
def test_windows_of_rectangles_are_attention_with_a_mask(variant, registers, randomise):
    """A grid of 6 x 4 cells in 2 x 2 windows of 3 x 2, of an image that is padded to 96 x 64."""
    backbone = WindowedViT(variant, registers=registers, image_size=64).eval()
    randomise(backbone)
    images = torch.randn(2, 3, 85, 62)
    cells = backbone.stem(F.pad(images, (0, 2, 0, 11)))[1]
    tokens, first = backbone._embed(cells, (6, 4))
    windows = [2 * (i // 4 // 3) + i % 4 // 2 for i in range(24)]
    windows += [window for window in range(4) for _ in range(first)]
    x = torch.cat([tokens[:, first:], *([tokens[:, :first]] * 4)], dim=1)
    ids = torch.tensor(windows)
    mask = torch.where(ids[:, None] == ids, 0.0, -math.inf)
    expected = []
    for number, block in enumerate(backbone.blocks, 1):
        x = block(x, (6, 4), None, None if number in backbone.global_blocks else mask)
        if number in backbone.feature_blocks:
            feature = x if backbone.norm is None else backbone.norm(x)
            expected.append(feature[:, :24].transpose(1, 2).unflatten(2, (6, 4)))
    for x, y in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


def test_one_window_is_a_plain_vit(randomise):
    """DINOv2's tensors have the same names here and there."""
    options = {"features": (3, 6, 9), "image_size": 64, "registers": 1, "layer_scale": 1.0}
    vit = ViT("nano", **options).eval()
    randomise(vit)
    backbone = WindowedViT("nano", num_windows=1, registers=1, image_size=64, features=(3, 6, 9)).eval()
    backbone.load_state_dict(vit.state_dict())
    images = torch.randn(1, 3, 80, 100)
    for x, y in zip(backbone(images), vit(images), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


@pytest.mark.integration
@torch.no_grad()
def test_one_graph_is_exported_for_images_of_any_whole_windows(randomise):
    """To which models pad images: 2 x 2 windows of patches of 16 pixels."""
    model = densevit.create_model({"name": "windowed_vit", "variant": "nano"}, {"depth": "dpt"}).model
    assert model.multiple == 32
    backbone = WindowedViT("nano", registers=1, features=(1, 2)).eval()
    randomise(backbone)
    batch, rows, columns = (torch.export.Dim(name, min=1, max=40) for name in ("batch", "rows", "columns"))
    shapes = {0: batch, 2: 32 * rows, 3: 32 * columns}
    graph = torch.export.export(backbone, (torch.randn(2, 3, 96, 128),), dynamic_shapes=(shapes,)).module()
    for size in ((3, 3, 64, 160), (2, 3, 128, 96)):
        images = torch.randn(size)
        torch.testing.assert_close(graph(images), backbone(images), atol=1e-5, rtol=1e-5)


def described(patch_size: int, side: int, depth: int = 12, lw_detr: bool = False) -> dict[str, Any]:
    names = [f"blocks.{i}.norm1.weight" for i in range(depth)] + ([] if lw_detr else ["class_token"])
    tensors = {name: torch.zeros(48) for name in names}
    patches, positions = torch.zeros(48, 3, patch_size, patch_size), torch.zeros(side, side, 48)
    return backbone_checkpoints.describe(tensors | {"stem.projection.weight": patches, "position_table": positions})


def test_tensors_of_released_models_have_their_windows():
    """The sides of the position tables are those of the package's configs."""
    assert [described(16, side)["num_windows"] for side in (24, 32, 36, 44)] == [2] * 4
    assert [described(12, side)["num_windows"] for side in (26, 32, 36, 42)] == [1, 2, 2, 2]
    base = described(14, 37, depth=11)
    assert (base["num_windows"], base["features"], base["image_size"]) == (4, (2, 5, 8, 11), 518)
    small = described(16, 14, depth=6, lw_detr=True)
    assert (small["variant"], small["num_windows"], small["image_size"]) == ("lw_tiny", 4, 224)
    with pytest.raises(WeightsError, match=r"\(48, 7\) is no known variant: nano"):
        described(16, 24, depth=7)


def test_other_global_blocks_are_refused():
    config = {
        "model_type": "lw_detr_vit", "num_windows": 16, "num_hidden_layers": 10, "out_indices": [3, 5, 6, 10],
        "window_block_indices": [0, 1, 3, 6, 7, 9],
    }  # fmt: skip
    found = backbone_checkpoints.saved({"config": {"backbone_config": config}})
    assert found == {"backbone.num_windows": 4, "backbone.features": (3, 5, 6, 10)}
    config["window_block_indices"] = [0, 1]
    with pytest.raises(WeightsError, match=r"\[0, 1\]"):
        backbone_checkpoints.saved({"config": {"backbone_config": config}})
