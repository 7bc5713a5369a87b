"""transformers' encoders in files, which have the names of version 4, and in memory: features and round trips."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from densevit.interfaces import IMAGENET_MEAN, IMAGENET_STD
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.layouts import find

pytestmark = pytest.mark.integration


def create(kind, options):
    """transformers' model of that name, with these options of its configuration."""
    import transformers

    model = getattr(transformers, kind)
    return model(model.config_class(**options))


def in_files(model):
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, model.state_dict()))


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
GIANT = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True}
SWIN_B = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
R101 = {"depths": [3, 4, 23, 3]}
R34 = {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
VIT, DINO = {"name": "vit", "patch_size": 16, "image_size": 224}, {"name": "vit", "patch_size": 14, "image_size": 518}
SWIN_1, SWIN_2 = ({"name": "swin", "version": version, "shift": "both_axes"} for version in (1, 2))
REAL = {  # model, options of its configuration, layout, section, whether names in memory differ
    "vit-base-patch16-224": (
        "ViTForImageClassification",
        {},
        "transformers-vit",
        {**VIT, "variant": "base"},
        True,
    ),
    "vit-large-patch32-384": (
        "ViTModel",
        {"image_size": 384, "patch_size": 32, **LARGE},
        "transformers-vit",
        {"name": "vit", "variant": "large", "patch_size": 32, "image_size": 384},
        True,
    ),
    "vit-mae-large": (
        "ViTMAEForPreTraining",
        LARGE,
        "transformers-mae",
        {**VIT, "variant": "large"},
        True,
    ),
    "deit-base-distilled-patch16-224": (
        "DeiTForImageClassificationWithTeacher",
        {},
        "transformers-deit",
        {**VIT, "variant": "base", "distillation_token": True},
        True,
    ),
    "dinov2-base": (
        "Dinov2Model",
        {"image_size": 518, "patch_size": 14},
        "transformers-dinov2",
        {**DINO, "variant": "base", "layer_scale": 1e-5},
        True,
    ),
    "dinov2-giant-imagenet1k-1-layer": (
        "Dinov2ForImageClassification",
        {"image_size": 518, "patch_size": 14, **GIANT},
        "transformers-dinov2",
        {**DINO, "variant": "giant", "layer_scale": 1e-5, "swiglu": True},
        True,
    ),
    "dinov2-with-registers-giant": (
        "Dinov2WithRegistersModel",
        {"image_size": 518, "patch_size": 14, **GIANT},
        "transformers-dinov2",
        {**DINO, "variant": "giant", "layer_scale": 1e-5, "swiglu": True, "registers": 4},
        True,
    ),
    "dinov2-with-registers-base-imagenet1k-1-layer": (
        "Dinov2WithRegistersForImageClassification",
        {"image_size": 518, "patch_size": 14},
        "transformers-dinov2",
        {**DINO, "variant": "base", "layer_scale": 1e-5, "registers": 4},
        True,
    ),
    "swin-tiny-patch4-window7-224": (
        "SwinForImageClassification",
        {},
        "transformers-swin",
        {**SWIN_1, "variant": "tiny", "window_size": 7},
        True,
    ),
    "swin-base-patch4-window12-384": (
        "SwinModel",
        {"image_size": 384, "window_size": 12, **SWIN_B},
        "transformers-swin",
        {**SWIN_1, "variant": "base", "window_size": 12},
        True,
    ),
    "swinv2-base-patch4-window8-256": (
        "Swinv2ForImageClassification",
        {"image_size": 256, "window_size": 8, **SWIN_B},
        "transformers-swinv2",
        {**SWIN_2, "variant": "base"},
        False,
    ),
    "resnet-101": (
        "ResNetForImageClassification",
        R101,
        "transformers-resnet",
        {"name": "resnet", "depth": 101},
        False,
    ),
    "resnet-34": ("ResNetModel", R34, "transformers-resnet", {"name": "resnet", "depth": 34}, False),
}


@pytest.mark.parametrize(("kind", "configuration", "layout", "section", "renamed"), REAL.values(), ids=REAL)
def test_released_models_are_translated_completely(kind, configuration, layout, section, renamed, loaded):
    with torch.device("meta"):
        model = create(kind, configuration)
    states = in_files(model), model.state_dict()
    assert (states[0].keys() != states[1].keys()) == renamed
    for state in states:
        loaded(state, layout)
        resized = {"position_resizing": "bicubic"} if section["name"] == "vit" and "registers" not in section else {}
        assert describe(state, find(layout)) == {"backbone": section | resized}


def test_mean_and_std_are_google_s_for_vit_and_imagenet_s_otherwise():
    for name in ("vit", "mae", "deit", "dinov2", "swin", "swinv2", "resnet"):
        layout = find(f"transformers-{name}")
        halves, of_imagenet = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), (IMAGENET_MEAN, IMAGENET_STD)
        assert (layout.publishing.mean, layout.publishing.std) == (halves if name.startswith("vit") else of_imagenet)


def test_buffers_and_mask_tokens_of_older_files_are_known():
    index = "encoder.layers.1.blocks.0.attention.self.relative_position_index"
    olds = {"transformers-swin": index, "transformers-vit": "embeddings.mask_token"}
    for layout, name in olds.items():
        assert translate({name: torch.zeros(1)}, find(layout)).left_out.keys() == {name}


NANO = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4}
PATCHES = {**NANO, "intermediate_size": 512, "image_size": 96}
DINO_NANO = {**NANO, "patch_size": 14, "image_size": 98}
SWIN_NANO = {"embed_dim": 32, "depths": [1, 1, 3, 1], "num_heads": [1, 2, 4, 8], "window_size": 4, "image_size": 192}
R18 = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
SMALL = {  # encoder, options of its configuration, layout, options that tensors do not determine, image size
    "vit": ("ViTModel", PATCHES, "transformers-vit", {}, (64, 112)),
    "deit": ("DeiTModel", PATCHES, "transformers-deit", {}, (128, 80)),
    "dinov2": ("Dinov2Model", DINO_NANO, "transformers-dinov2", {}, (70, 126)),
    "dinov2 gated": (
        "Dinov2Model",
        {**DINO_NANO, "use_swiglu_ffn": True},
        "transformers-dinov2",
        {},
        (98, 98),
    ),
    "dinov2 with registers": (
        "Dinov2WithRegistersModel",
        DINO_NANO,
        "transformers-dinov2",
        {},
        (70, 126),
    ),
    "swin": ("SwinModel", SWIN_NANO, "transformers-swin", {}, (165, 203)),
    "swinv2": ("Swinv2Model", SWIN_NANO, "transformers-swinv2", {"window_size": 4}, (165, 203)),
    "resnet": ("ResNetModel", R18, "transformers-resnet", {}, (71, 115)),
}


def features(model, images, backbone):
    """The features that ours returns, from an encoder of transformers."""
    from transformers import DeiTModel, ViTModel

    of_any_size = {"interpolate_pos_encoding": True} if isinstance(model, (ViTModel, DeiTModel)) else {}
    outputs = model(images, output_hidden_states=True, **of_any_size)
    if hasattr(backbone, "feature_blocks"):
        tokens = [model.layernorm(outputs.hidden_states[block]) for block in backbone.feature_blocks]
        h, w = (size // backbone.stride for size in images.shape[2:])
        return [x[:, -h * w :].transpose(1, 2).unflatten(2, (h, w)) for x in tokens]
    maps = getattr(outputs, "reshaped_hidden_states", None)
    if maps is None:
        return outputs.hidden_states[1:]
    last = outputs.last_hidden_state
    return [last.transpose(1, 2).unflatten(2, maps[-1].shape[2:])]


@pytest.mark.parity("transformers-vit", "transformers-deit", "transformers-dinov2", "transformers-swin")
@pytest.mark.parity("transformers-swinv2", "transformers-resnet")
@pytest.mark.parametrize(("kind", "configuration", "layout", "options", "size"), SMALL.values(), ids=SMALL)
def test_features_match_transformers_and_round_trip(
    kind, configuration, layout, options, size, loaded, randomise, tmp_path
):
    reference = randomise(create(kind, configuration))
    randomise_scales(reference)
    reference.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    backbone = loaded(state, layout, **options)
    memory = reference.state_dict()
    same = loaded(memory, layout, **options).state_dict()
    own = {key: tensor for key, tensor in backbone.state_dict().items() if not key.startswith("feature_norms")}
    assert all(tensor.equal(same[key]) for key, tensor in own.items())

    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = features(reference, images, backbone)
        for x, y in zip(backbone(images)[-len(expected) :], expected, strict=True):
            assert y.abs().mean() > 0.1
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)

    back, unknown = translate_back(backbone.state_dict(), find(layout))
    without_effect = {key for key in state if "mask_token" in key or "pooler" in key}
    assert unknown == [] and back.keys() == state.keys() - without_effect
    for key in back:  # a token includes its position in ours
        if not key.endswith(("cls_token", "distillation_token", "position_embeddings")):
            assert back[key].equal(state[key])
    rest = {key: tensor for key, tensor in state.items() if key not in back}
    save_file({key: tensor.contiguous() for key, tensor in (back | rest).items()}, tmp_path / "model.safetensors")
    again = type(reference).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        for x, y in zip(features(again, images, backbone), expected, strict=True):
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
    twice = loaded(in_files(again), layout, **options).state_dict()
    assert all(tensor.equal(twice[key]) for key, tensor in own.items())


def randomise_scales(model):
    """Layer scales, and the tokens that are initialised to zero."""
    for name, parameter in model.named_parameters():
        if "lambda1" in name:
            torch.nn.init.uniform_(parameter, 0.3, 1.5)
        elif name.endswith("position_embeddings"):
            torch.nn.init.normal_(parameter)
