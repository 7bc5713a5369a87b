"""Features and input gradients match timm and transformers with the same random weights."""

import re
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from densevit_backbones.vit import ViT
from densevit_backbones.vit.windows import Windows

Renamings = list[tuple[str, str]]

FROM_TIMM: Renamings = [
    (r"^patch_embed\.proj\.", "stem.projection."),
    (r"^patch_embed\.backbone\.stem\.", "stem."),
    (r"^patch_embed\.backbone\.stages\.(\d)\.blocks\.", r"stem.stages.\1."),
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample\.norm\.", ".downsample.1."),
    (r"\.attn\.proj\.", ".attention.output."),
    (r"\.attn\.([qk])_norm\.", lambda m: f".attention.{'query' if m[1] == 'q' else 'key'}_norm."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.expand."),
    (r"\.mlp\.fc2\.", ".mlp.contract."),
    (r"\.ls([12])\.gamma$", r".scale\1.scale"),
    (r"\.gamma_([12])$", r".scale\1.scale"),
    (r"^cls_token$", "class_token"),
    (r"^dist_token$", "distillation_token"),
    (r"^reg_token$", "register_tokens"),
    (r"^pos_embed$", "position_table"),
]
FROM_VIT: Renamings = [
    (r"^embeddings\.patch_embeddings\.projection\.", "stem.projection."),
    (r"^embeddings\.cls_token$", "class_token"),
    (r"^embeddings\.position_embeddings$", "position_table"),
    (r"^layernorm\.", "norm."),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.)?(query|key|value|[qkv]_proj)\.", r".attention.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attention.output."),
    (r"\.(?:intermediate\.dense|mlp\.fc1)\.", ".mlp.expand."),
    (r"\.(?<!attention\.)(?:output\.dense|mlp\.fc2)\.", ".mlp.contract."),
]
FROM_VITDET: Renamings = [
    (r"^embeddings\.projection\.", "stem.projection."),
    (r"^embeddings\.position_embeddings$", "position_table"),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.proj\.", ".attention.output."),
    (r"\.mlp\.fc1\.", ".mlp.expand."),
    (r"\.mlp\.fc2\.", ".mlp.contract."),
]


def load(vit: ViT, reference: nn.Module, renamings: Renamings, tokens_have_positions: bool = True) -> None:
    """Loads all weights of the reference except its classifier's; every tensor of ours must be set.

    tokens_have_positions: the reference adds a position to each prefix token; our token is the sum.
    """
    given: dict[str, Tensor] = {}
    for key, value in reference.state_dict().items():
        if key.startswith(("head.", "head_dist.", "pooler.")):
            continue
        for pattern, replacement in renamings:
            key = re.sub(pattern, replacement, key)
        given[key] = value
    for key in [key for key in given if key.endswith(".q_bias")]:
        stem = key.removesuffix("q_bias")
        q, v = given.pop(key), given.pop(stem + "v_bias")
        given.pop(stem + "k_bias", None)
        given[stem + "qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    for key in [key for key in given if re.search(r"\.(query|q_proj)\.", key)]:
        names = [key.replace("q_proj", n) for n in ("q_proj", "k_proj", "v_proj")]
        if ".query." in key:
            names = [key.replace("query", n) for n in ("query", "key", "value")]
        given[re.sub(r"query|q_proj", "qkv", key)] = torch.cat([given.pop(name) for name in names])
    for token in ("class_token", "distillation_token", "register_tokens"):
        if token in given:
            given[token] = given[token][0]
    if "position_table" in given:
        table = given["position_table"][0]
        if tokens_have_positions:
            for i, token in enumerate(t for t in ("class_token", "distillation_token") if t in given):
                given[token] = given[token] + table[i]
        cells = table[-(vit.position_side**2) :]
        given["position_table"] = cells.view(vit.position_side, vit.position_side, -1)
    if vit.norm is None:
        given = {key: value for key, value in given.items() if not key.startswith("norm.")}
    assert given.keys() == vit.state_dict().keys()
    vit.load_state_dict(given)


def timm_pair(randomise, name: str, options: dict, own: dict, tokens_have_positions: bool = True):
    """Our model and timm's with the same weights."""
    import timm

    reference = timm.create_model(name, pretrained=False, num_classes=0, **options).eval()
    vit = ViT(**own).eval()
    randomise(vit)
    randomise(reference)
    load(vit, reference, FROM_TIMM, tokens_have_positions)
    return vit, reference


def timm_features(vit: ViT, reference: nn.Module, images: Tensor) -> list[Tensor]:
    """Features after the same blocks as ours."""
    indices = [block - 1 for block in vit.feature_blocks]
    norm = vit.norm is not None
    return reference.forward_intermediates(images, indices=indices, norm=norm, intermediates_only=True)


@pytest.mark.integration
@pytest.mark.parametrize(
    "size", [pytest.param((224, 224), id="224"), pytest.param((384, 384), id="384", marks=pytest.mark.slow)]
)
def test_base_matches_timm(size, randomise, assert_equal_features):
    vit, reference = timm_pair(randomise, "vit_base_patch16_224", {"dynamic_img_size": True}, {"variant": "base"})
    assert_equal_features(vit, partial(timm_features, vit, reference), torch.randn(1, 3, *size))


@pytest.mark.parametrize(
    "size", [pytest.param((384, 384), marks=pytest.mark.integration), (97, 259), (16, 33)], ids=str
)
def test_positions_and_padding_at_another_size_match_timm(size, randomise, assert_equal_features):
    vit, reference = timm_pair(
        randomise,
        "vit_base_patch16_224",
        {"depth": 2, "dynamic_img_size": True, "dynamic_img_pad": True},
        {"variant": "base", "features": (1, 2), "feature_norm": False},
    )
    assert_equal_features(vit, partial(timm_features, vit, reference), torch.randn(1, 3, *size))


@pytest.mark.integration
def test_model_built_for_384_matches_timm(randomise, assert_equal_features):
    vit, reference = timm_pair(
        randomise,
        "vit_base_patch16_384",
        {"depth": 1},
        {"variant": "base", "image_size": 384, "features": (1,)},
    )
    assert_equal_features(vit, partial(timm_features, vit, reference), torch.randn(1, 3, 384, 384))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("vit_large_patch16_224", {"variant": "large"}),
        ("vit_large_patch32_384", {"variant": "large", "patch_size": 32, "image_size": 384}),
        ("vit_huge_patch14_224", {"variant": "huge", "patch_size": 14}),
        ("vit_small_patch8_224", {"variant": "small", "patch_size": 8}),
        ("deit_tiny_distilled_patch16_224", {"variant": "tiny", "distillation_token": True}),
        (
            "vit_giant_patch14_dinov2",
            {"variant": "giant", "patch_size": 14, "swiglu": True, "layer_scale": 1e-5, "image_size": 518},
        ),
        ("vit_base_r50_s16_384", {"stem": "resnet", "image_size": 384}),
    ],
)
def test_all_variants_have_timm_s_tensors(name, own):
    import timm

    with torch.device("meta"):
        reference = timm.create_model(name, pretrained=False, num_classes=0)
        load(ViT(**own), reference, FROM_TIMM)


@pytest.mark.integration
def test_distilled_matches_timm_s_deit(randomise, assert_equal_features):
    vit, reference = timm_pair(
        randomise,
        "deit_base_distilled_patch16_224",
        {"depth": 3, "dynamic_img_size": True},
        {"variant": "base", "distillation_token": True, "features": (1, 3)},
    )
    assert_equal_features(vit, partial(timm_features, vit, reference), torch.randn(1, 3, 80, 112))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("dtype", "depth", "size"),
    [
        (torch.float32, 2, (64, 96)),
        (torch.float64, 2, (80, 48)),
        pytest.param(torch.float64, 12, (384, 384), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_hybrid_matches_timm_s_vit_base_r50(dtype, depth, size, randomise, assert_equal_features):
    vit, reference = timm_pair(
        randomise,
        "vit_base_r50_s16_384",
        {"depth": depth, "dynamic_img_size": True},
        {"stem": "resnet", "image_size": 384, "features": (depth * 3 // 4, depth)},
    )
    if (
        dtype is torch.float32
    ):  # residual branches as small as trained ones; otherwise rounding errors grow until ReLUs flip
        weights = [(k, p) for m in (vit, reference) for k, p in m.named_parameters() if k.endswith("norm3.weight")]
        assert len(weights) == 32
        for _, weight in weights:
            weight.data *= 0.2
    early: list[Tensor] = []
    for stage in reference.to(dtype).patch_embed.backbone.stages[:2]:
        stage.register_forward_hook(lambda module, inputs, x: early.append(x))

    def features(images: Tensor) -> list[Tensor]:
        late = timm_features(vit, reference, images)
        return [*early, *late]

    assert vit.strides == (4, 8, 16, 16) and vit.channels == (256, 512, 768, 768)
    assert_equal_features(vit.to(dtype), features, torch.randn(1, 3, *size, dtype=dtype))


SMALL = {"depth": 3, "dynamic_img_size": True}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "options", "own"),
    [
        ("vit_small_patch16_224", {"qk_norm": True}, {"qk_norm": True}),
        ("vit_small_patch16_224", {"init_values": 0.1}, {"layer_scale": 0.1}),
        (
            "vit_small_patch14_dinov2",
            {"mlp_ratio": 2.66667 * 2, "mlp_layer": "SwiGLUPacked", "act_layer": nn.SiLU, "img_size": 112},
            {"swiglu": True, "layer_scale": 1.0, "patch_size": 14, "image_size": 112},
        ),
        (
            "vit_small_patch32_224",
            {"class_token": False, "global_pool": "avg", "fc_norm": False},
            {"patch_size": 32, "class_token": False},
        ),
        ("vit_small_patch8_224", {"pos_embed": "none"}, {"patch_size": 8, "positions": "none"}),
    ],
    ids=["qk-norm", "layer scale", "swiglu", "no class token", "no positions"],
)
def test_later_options_match_timm(name, options, own, randomise, assert_equal_features):
    import timm

    own = {"variant": "small", "features": (1, 3), **own}
    if "mlp_layer" in options:
        options = {**options, "mlp_layer": getattr(timm.layers, options["mlp_layer"])}
    vit, reference = timm_pair(randomise, name, {**SMALL, **options}, own)
    side = own.get("patch_size", 16)
    assert_equal_features(vit, partial(timm_features, vit, reference), torch.randn(2, 3, 5 * side, 3 * side))


@pytest.mark.integration
def test_registers_match_timm_s_dinov2(randomise, assert_equal_features):
    vit, reference = timm_pair(
        randomise,
        "vit_small_patch14_reg4_dinov2",
        {**SMALL, "img_size": 98},
        {
            "variant": "small",
            "features": (1, 3),
            "registers": 4,
            "patch_size": 14,
            "layer_scale": 1.0,
            "image_size": 98,
        },
        tokens_have_positions=False,
    )
    assert_equal_features(vit, partial(timm_features, vit, reference), torch.randn(2, 3, 70, 112))


@pytest.mark.integration
def test_rotary_matches_timm_s_dinov3(randomise, assert_equal_features):
    vit, reference = timm_pair(
        randomise,
        "vit_small_patch16_dinov3_qkvb",
        {"depth": 3, "norm_layer": partial(nn.LayerNorm, eps=1e-6)},
        {"variant": "small", "features": (1, 3), "registers": 4, "layer_scale": 1.0, "positions": "rotary"},
    )
    assert_equal_features(vit, partial(timm_features, vit, reference), torch.randn(2, 3, 80, 176))


def test_nano_matches_transformers_vit(randomise, assert_equal_features):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        image_size=80,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    vit, reference = ViT("nano", patch_size=8, image_size=80, feature_norm=False).eval(), ViTModel(config).eval()
    assert len(vit.feature_blocks) == 4
    randomise(vit)
    randomise(reference)
    load(vit, reference, FROM_VIT)

    def features(images: Tensor) -> list[Tensor]:
        states = reference(images, output_hidden_states=True).hidden_states
        return [states[i][:, 1:].transpose(1, 2).unflatten(2, (10, 10)) for i in vit.feature_blocks]

    assert_equal_features(vit, features, torch.randn(2, 3, 80, 80))


@pytest.mark.integration
@pytest.mark.parametrize("window", [4, 5, 12])
def test_windowed_blocks_match_transformers_vitdet(window, randomise, assert_equal_features):
    """A grid of 10x10 cells, not divisible into windows of 4 or 12."""
    from transformers import VitDetConfig, VitDetModel

    config = VitDetConfig(
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=80,
        pretrain_image_size=80,
        patch_size=8,
        window_size=window,
        window_block_indices=[0, 3],
        drop_path_rate=0.0,
    )
    options = {"patch_size": 8, "image_size": 80, "class_token": False, "feature_norm": False}
    vit = ViT("nano", windows=Windows(window), features=(1, 2, 4, 6), **options).eval()
    reference = VitDetModel(config).eval()
    assert [block.window is not None for block in vit.blocks] == [True, False, False, True, False, False]
    randomise(vit)
    randomise(reference)
    load(vit, reference, FROM_VITDET)

    def features(images: Tensor) -> list[Tensor]:
        states = reference(images, output_hidden_states=True).hidden_states
        return [states[i] for i in vit.feature_blocks]

    assert_equal_features(vit, features, torch.randn(2, 3, 80, 80))


@pytest.mark.integration
@pytest.mark.parametrize("readout", ["project", "add", "ignore"])
def test_readout_matches_transformers_dpt(readout, randomise):
    from transformers import DPTConfig
    from transformers.models.dpt.modeling_dpt import DPTReassembleStage

    vit = ViT("nano", readout=readout, registers=2, feature_norm=False).eval()
    randomise(vit)
    config = DPTConfig(hidden_size=128, num_attention_heads=4, readout_type=readout, neck_ignore_stages=[])
    stage = DPTReassembleStage(config)
    stage.layers = nn.ModuleList(nn.Identity() for _ in range(4))
    if readout == "project":
        for own, theirs in zip(vit.readouts, stage.readout_projects, strict=True):
            theirs[0].load_state_dict(own.projection.state_dict())
    tokens: list[Tensor] = []
    for block in vit.feature_blocks:
        vit.blocks[block - 1].register_forward_hook(lambda module, inputs, x: tokens.append(x))
    found = vit(torch.randn(2, 3, 50, 80))
    theirs = stage([torch.cat([x[:, :1], x[:, 3:]], dim=1) for x in tokens], 4, 5)
    for x, y in zip(found, theirs, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
