"""Features and input gradients match timm and transformers with the same random weights; cost of the variants."""

import re
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

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


SMALL = {"depth": 2, "dynamic_img_size": True}
DINOV3 = {"depth": 2, "norm_layer": partial(nn.LayerNorm, eps=1e-6)}
SWIGLU = {"mlp_ratio": 2.66667 * 2, "act_layer": nn.SiLU, "img_size": 112}
TIMM: dict[str, tuple[str, dict, dict, tuple[int, int]]] = {
    "native size": ("vit_tiny_patch16_224", {}, {"feature_norm": False}, (224, 224)),
    "padding": ("vit_tiny_patch16_224", {"dynamic_img_pad": True}, {"feature_norm": False}, (97, 259)),
    "one row": ("vit_tiny_patch16_224", {"dynamic_img_pad": True}, {}, (16, 33)),
    "distilled": ("deit_tiny_distilled_patch16_224", {}, {"distillation_token": True}, (80, 112)),
    "qk-norm": ("vit_tiny_patch16_224", {"qk_norm": True}, {"qk_norm": True}, (80, 48)),
    "layer scale": ("vit_tiny_patch16_224", {"init_values": 0.1}, {"layer_scale": 0.1}, (80, 48)),
    "swiglu": (
        "vit_small_patch14_dinov2",
        SWIGLU,
        {"variant": "small", "swiglu": True, "layer_scale": 1.0, "patch_size": 14, "image_size": 112},
        (70, 42),
    ),
    "no class token": (
        "vit_small_patch32_224",
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"variant": "small", "patch_size": 32, "class_token": False},
        (160, 96),
    ),
    "no positions": (
        "vit_small_patch8_224",
        {"pos_embed": "none"},
        {"variant": "small", "patch_size": 8, "positions": "none"},
        (40, 24),
    ),
    "registers": (
        "vit_small_patch14_reg4_dinov2",
        {"img_size": 98},
        {"variant": "small", "registers": 4, "patch_size": 14, "layer_scale": 1.0, "image_size": 98},
        (70, 112),
    ),
    "rotary": (
        "vit_small_patch16_dinov3_qkvb",
        DINOV3,
        {"variant": "small", "registers": 4, "layer_scale": 1.0, "positions": "rotary"},
        (80, 176),
    ),
}


@pytest.mark.integration
@pytest.mark.parametrize("case", TIMM)
def test_features_and_gradients_match_timm(case, randomise, assert_equal_features):
    import timm

    name, options, own, size = TIMM[case]
    options = {**({} if case == "rotary" else SMALL), **options}
    if case == "swiglu":
        options["mlp_layer"] = timm.layers.SwiGLUPacked
    own = {"variant": "tiny", "features": (1, 2), **own}
    vit, reference = timm_pair(randomise, name, options, own, case != "registers")
    assert_equal_features(vit, partial(timm_features, vit, reference), torch.randn(2, 3, *size))


@pytest.mark.integration
def test_hybrid_matches_timm_s_vit_base_r50(randomise, assert_equal_features):
    """In float64: otherwise rounding errors grow until ReLUs flip."""
    vit, reference = timm_pair(
        randomise,
        "vit_base_r50_s16_384",
        SMALL,
        {"stem": "resnet", "image_size": 384, "features": (1, 2)},
    )
    early: list[Tensor] = []
    for stage in reference.double().patch_embed.backbone.stages[:2]:
        stage.register_forward_hook(lambda module, inputs, x: early.append(x))

    def features(images: Tensor) -> list[Tensor]:
        late = timm_features(vit, reference, images)
        return [*early, *late]

    assert vit.strides == (4, 8, 16, 16) and vit.channels == (256, 512, 768, 768)
    assert_equal_features(vit.double(), features, torch.randn(1, 3, 64, 48, dtype=torch.float64))


@pytest.mark.integration
@pytest.mark.parametrize("window", [4, 5])
def test_windowed_blocks_match_transformers_vitdet(window, randomise, assert_equal_features):
    """A grid of 10x10 cells, not divisible into windows of 4."""
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


# Parameters with a classifier, and multiply-adds: ViT at 384, as reported by timm and torchvision; DeiT, table 1.
@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "own", "millions", "gmacs"),
    [
        ("vit_base_patch16_384", {"image_size": 384}, 86.86, 55.4),
        ("vit_large_patch32_384", {"variant": "large", "patch_size": 32, "image_size": 384}, 306.6, None),
        ("vit_tiny_patch16_224", {"variant": "tiny"}, 5.72, None),
        ("vit_small_patch16_224", {"variant": "small"}, 22.05, None),
        ("vit_huge_patch14_224", {"variant": "huge", "patch_size": 14}, 632.0, None),
        (
            "vit_giant_patch14_dinov2",
            {"variant": "giant", "patch_size": 14, "swiglu": True, "layer_scale": 1e-5, "image_size": 518},
            1138.0,
            None,
        ),
        ("vit_base_r50_s16_384", {"stem": "resnet", "image_size": 384}, 98.95, None),
    ],
)
def test_cost_is_the_paper_s_and_tensors_are_timm_s(name, own, millions, gmacs):
    import timm

    with torch.device("meta"):
        vit = ViT(**{"variant": "base", **own}).eval()
        load(vit, timm.create_model(name, pretrained=False, num_classes=0), FROM_TIMM)
        classifier = nn.Linear(vit.channels[-1], 1000)
        count = sum(p.numel() for module in (vit, classifier) for p in module.parameters())
        assert count / 1e6 == pytest.approx(millions, rel=0.002)
        if gmacs is not None:
            with FlopCounterMode(display=False) as counter:
                classifier(vit(torch.empty(1, 3, 384, 384))[-1].mean((2, 3)))
            assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.015)
