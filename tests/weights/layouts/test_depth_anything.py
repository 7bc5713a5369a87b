"""Depth Anything: transformers' models and the authors' files are read, compute the same, and are written back."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import densevit
from densevit import config as configs
from densevit.errors import WeightsError
from densevit.model import build_from_architecture
from densevit.weights import layouts
from densevit.weights.checkpoint_io import Checkpoint, read
from densevit.weights.foreign_checkpoint import translate_checkpoint
from densevit.weights.key_mapping import describe
from densevit.weights.layouts import find, recognise
from densevit.weights.pretrained import load_pretrained
from densevit_workbench.interchange.foreign_export import export
from densevit_workbench.interchange.foreign_weights import convert, write

pytestmark = pytest.mark.integration

SIDE = 70
SIZES = ((70, 70), (98, 126), (42, 182), (154, 84))  # cells: 5 x 5, 7 x 9, 3 x 13, 11 x 6
PUBLISHED = {  # width, blocks, heads, fusion, channels, features of V2
    "small": (384, 12, 6, 64, [48, 96, 192, 384], (3, 6, 9, 12)),
    "base": (768, 12, 12, 128, [96, 192, 384, 768], (3, 6, 9, 12)),
    "large": (1024, 24, 16, 256, [256, 512, 1024, 1024], (5, 12, 18, 24)),
}


def config_of(kind, width=128, blocks=6, heads=4, fusion=64, channels=(24, 48, 96, 128), features=(2, 3, 5, 6), **more):
    from transformers import DepthAnythingConfig, Dinov2Config

    encoder = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        image_size=SIDE,
        patch_size=14,
        out_indices=[*features],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    return DepthAnythingConfig(
        backbone_config=encoder,
        reassemble_hidden_size=width,
        neck_hidden_sizes=[*channels],
        fusion_hidden_size=fusion,
        depth_estimation_type=kind,
        **{"max_depth": 20 if kind == "metric" else 1, **more},
    )


def randomised(model):
    torch.manual_seed(0)
    for name, tensor in model.named_parameters():
        if tensor.ndim == 1:
            torch.nn.init.normal_(tensor, 1.0 if name.endswith(("weight", "lambda1")) else 0.0, 0.3)
        elif "token" in name or "position" in name:
            torch.nn.init.normal_(tensor)
        else:
            torch.nn.init.normal_(tensor, 0.0, tensor[0].numel() ** -0.5)
    model.head.conv3.bias.data.fill_(0.5)
    return model.eval()


@pytest.fixture(scope="module", params=["relative", "metric"])
def pair(request, tmp_path_factory):
    """transformers' model with random weights, and the folder that it was saved to."""
    from transformers import DepthAnythingForDepthEstimation, DPTImageProcessor

    folder = tmp_path_factory.mktemp(request.param) / "theirs"
    reference = randomised(DepthAnythingForDepthEstimation(config_of(request.param)))
    reference.save_pretrained(folder)
    DPTImageProcessor(
        size={"height": 518, "width": 518},
        ensure_multiple_of=14,
        keep_aspect_ratio=True,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return reference, folder


@pytest.fixture(scope="module")
def relative_folder(tmp_path_factory):
    from transformers import DepthAnythingForDepthEstimation

    folder = tmp_path_factory.mktemp("relative") / "theirs"
    randomised(DepthAnythingForDepthEstimation(config_of("relative"))).save_pretrained(folder)
    return folder


@torch.no_grad()
def maps_of(model, pixels):
    """pixels: normalised, (B, 3, H, W). Returns depth or inverse depth, (B, H, W)."""
    size, head = pixels.shape[2:], model.heads["depth"]
    outputs = head(model.backbone(pixels), torch.zeros(len(pixels), *size, dtype=torch.bool))
    return head.maps(outputs, size)[:, 0]


@pytest.mark.parity("transformers-depth-anything", "transformers-depth-anything-metric")
@torch.no_grad()
def test_outputs_are_those_of_transformers(pair):
    reference, folder = pair
    metric = reference.config.depth_estimation_type == "metric"
    found = convert(folder)
    head = found.config.heads["depth"].options
    assert (head["output"], head.get("max_depth")) == (("sigmoid", 20.0) if metric else ("relative", None))
    assert found.section.options["features"] == (2, 3, 5, 6) and found.assumed == ()
    assert (found.config.data.transforms.options["short_side"], found.config.data.image_size) == (518, 518)
    for size in SIZES:
        pixels = torch.randn(2, 3, *size)
        expected = reference(pixels).predicted_depth
        assert expected.std() > 0.03 and (expected > 0).float().mean() > 0.3
        torch.testing.assert_close(maps_of(found.model, pixels), expected, atol=1e-4, rtol=1e-4)


def test_model_s_state_dict_has_the_same_layout(pair, whole):
    """transformers 5 names the tensors of a model otherwise than those of its file."""
    reference, _ = pair
    unused = r"backbone\.embeddings\.mask_token|neck\.fusion_stage\.layers\.0\.residual_layer1\."
    parts = r"attention\.(attention\.)?(query|key|value|[qkv]_proj)\."
    state = reference.state_dict()
    assert any("q_proj" in key for key in state) or any("attention.query" in key for key in state)
    assert recognise(state).name == "transformers-depth-anything"
    model = whole(state, find("transformers-depth-anything"), unused)
    assert re.search(parts, next(key for key in state if ".attention." in key))
    assert model.heads["depth"].quantity == "inverse_depth"


def test_any_rectangle_is_predicted_at_its_own_size(pair):
    reference, folder = pair
    predictor = densevit.load(folder)
    for size in ((45, 77), (120, 50)):
        image = torch.randint(256, (3, *size), dtype=torch.uint8)
        result = predictor.predict(image)
        metric = reference.config.depth_estimation_type == "metric"
        depth = result.depth if metric else result.inverse_depth
        assert tuple(depth.shape) == size and depth.std() > 0
        assert not metric or 0 <= float(depth.min()) <= float(depth.max()) <= 20


@torch.no_grad()
def test_export_loads_in_transformers(pair, tmp_path):
    from transformers import DepthAnythingForDepthEstimation, DPTImageProcessor

    reference, folder = pair
    write(convert(folder), tmp_path / "ours")
    export(tmp_path / "ours", "hf").write(tmp_path / "back")
    theirs, report = DepthAnythingForDepthEstimation.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["unexpected_keys"]
    assert all("layers.0.residual_layer1" in key or "mask_token" in key for key in report["missing_keys"])
    for name in ("depth_estimation_type", "max_depth", "neck_hidden_sizes", "fusion_hidden_size", "patch_size"):
        assert getattr(theirs.config, name) == getattr(reference.config, name)
    pixels = torch.randn(1, 3, 98, 126)
    torch.testing.assert_close(theirs.eval()(pixels).predicted_depth, reference(pixels).predicted_depth)
    processor = DPTImageProcessor.from_pretrained(tmp_path / "back")
    sides = processor(torch.zeros(3, 900, 1210, dtype=torch.uint8), return_tensors="pt").pixel_values.shape[2:]
    assert sides == (518, 700)


@torch.no_grad()
def test_export_has_all_tensors_of_the_authors_code(pair, tmp_path):
    reference, folder = pair
    write(convert(folder), tmp_path / "ours")
    found = export(tmp_path / "ours", "depth-anything-v2")
    found.write(tmp_path / "back.pth")
    with safe_open(Path(__file__).parent / "originals" / "depth-anything-v2.safetensors", "pt") as file:
        keys = {re.sub(r"blocks\.\d+", "blocks.#", key) for key in json.loads(file.metadata()["shapes"])}
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert {re.sub(r"blocks\.\d+", "blocks.#", key) for key in back} == keys
    metric = reference.config.depth_estimation_type == "metric"
    layout = "depth-anything-v2-indoor" if metric else "depth-anything-v2"
    assert found.layout.name == layout
    assert any("features is [2, 3, 5, 6]" in note for note in found.notes) or metric
    again = convert(tmp_path / "back.pth", layout, ["backbone.features=[2,3,5,6]"]).model
    pixels = torch.randn(1, 3, SIDE, SIDE)  # the size of the position table, which the projects resize differently
    torch.testing.assert_close(maps_of(again, pixels), reference(pixels).predicted_depth, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("to", "gated"), [("depth-anything-v2", "mlp.w12.weight"), ("transformers-depth-anything", "mlp.weights_in.weight")]
)
def test_gated_mlps_of_giant_are_written_and_read(to, gated, tmp_path):
    model = densevit.create_model({**VIT, "swiglu": True}, heads={"depth": {**DPT, "output": "relative"}})
    densevit.save(model, tmp_path / "model.safetensors")
    export(tmp_path / "model.safetensors", to).write(tmp_path / "back.pth")
    assert any(key.endswith(gated) for key in torch.load(tmp_path / "back.pth", weights_only=True))
    again = convert(tmp_path / "back.pth").model.state_dict()
    assert all(torch.equal(again[name], x) for name, x in model.model.state_dict().items())


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_are_described_completely(size):
    from transformers import DepthAnythingForDepthEstimation

    width, blocks, heads, fusion, channels, features = PUBLISHED[size]
    with torch.device("meta"):
        config = config_of("metric", width, blocks, heads, fusion, channels, features, max_depth=80)
        state = DepthAnythingForDepthEstimation(config).state_dict()
    metadata = {"config": config.to_dict()}
    layout = recognise(state, metadata=metadata)
    assert layout.name == "transformers-depth-anything-metric"
    assert describe(state, layout, metadata) == {
        "backbone": {
            "name": "vit",
            "variant": size,
            "patch_size": 14,
            "image_size": SIDE,
            "layer_scale": 1e-5,
            "position_resizing": "bicubic",
            "features": features,
        },
        "heads": {
            "depth": {
                "name": "dpt",
                "output": "sigmoid",
                "upsampling": "exact",
                "width": fusion,
                "reassemble_channels": channels,
                "min_depth": 1e-6,
                "max_depth": 80.0,
            }
        },
    }
    licence = "Apache-2.0" if size == "small" else "CC-BY-NC-4.0"
    own = translate_checkpoint(Checkpoint(state, "a.bin", metadata=metadata), layout)
    assert own.licences == {"a.bin": f"{licence} (DepthAnything/Depth-Anything-V2)"}
    with_card = translate_checkpoint(Checkpoint(state, "a.bin", metadata={**metadata, "licence": "mit"}), layout)
    assert with_card.licences == {"a.bin": "mit"}


def test_v1_is_told_by_its_blocks():
    from transformers import DepthAnythingForDepthEstimation

    width, blocks, heads, fusion, channels, _ = PUBLISHED["base"]
    with torch.device("meta"):
        config = config_of("relative", width, blocks, heads, fusion, channels, (9, 10, 11, 12))
        state = DepthAnythingForDepthEstimation(config).state_dict()
    metadata = {"config": config.to_dict()}
    layout = recognise(state, metadata=metadata)
    assert describe(state, layout, metadata)["backbone"]["features"] == (9, 10, 11, 12)
    own = translate_checkpoint(Checkpoint(state, "a.bin", metadata=metadata), layout)
    assert own.licences == {"a.bin": "Apache-2.0 (LiheYoung/Depth-Anything)"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"reassemble_factors": [4, 2, 1, 1]},
            r"reassemble_factors: \[4, 2, 1, 1\], but a transformers-depth-anything",
        ),
        ({"head_hidden_size": 16}, "head_hidden_size: 16, but"),
        ({"depth_estimation_type": "disparity"}, 'depth_estimation_type: "disparity", but'),
        ({"backbone_config": {"apply_layernorm": False}}, "backbone_config.apply_layernorm: false, but"),
        ({"backbone_config": {"model_type": "swin"}}, 'backbone_config.model_type: "swin", but'),
    ],
)
def test_other_models_of_config_json_are_refused(config, message):
    with pytest.raises(WeightsError, match=f"a.bin: its config.json has {message} .* only"):
        translate_checkpoint(
            Checkpoint({}, "a.bin", metadata={"config": config}), layouts.find("transformers-depth-anything")
        )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depth_estimation_type": "metric", "max_depth": None}, "metric and max_depth: None; expected the metres"),
        ({"depth_estimation_type": "relative", "max_depth": 20}, "max_depth: 20 of a relative model.*max_depth: 1"),
        ({"backbone_config": {"hidden_size": 384, "num_attention_heads": 8}}, "8 attention heads for 384 channels"),
    ],
)
def test_wrong_values_of_config_json_are_refused(config, message):
    options = find("transformers-depth-anything").options.saved
    with pytest.raises(WeightsError, match=message):
        options({}, {"config": {"model_type": "depth_anything", **config}})


VIT = {"name": "vit", "variant": "nano", "patch_size": 14, "image_size": SIDE, "layer_scale": 1e-5}
VIT |= {"features": [2, 3, 5, 6], "position_resizing": "bicubic"}
DPT = {"name": "dpt", "upsampling": "exact", "width": 64, "reassemble_channels": [24, 48, 96, 128]}


def test_metres_are_learned_from_relative_weights(relative_folder):
    """All but the last convolution, whose output has another meaning and range."""
    torch.manual_seed(3)
    metres = {**DPT, "output": "sigmoid", "max_depth": 8.0}
    model = densevit.create_model(VIT, heads={"far": metres}, weights=str(relative_folder)).model
    relative = convert(relative_folder).model
    notes = convert(relative_folder, overrides=["heads.depth.output=sigmoid"]).fit.notes
    why = "the last convolution (conv3) is untrained: the weights have output 'relative', this head 'sigmoid'"
    assert f"heads.depth: {why}." in notes
    new = {"heads.far.conv3.weight", "heads.far.conv3.bias"}
    theirs = {name.replace("heads.depth.", "heads.far."): x for name, x in relative.state_dict().items()}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, theirs[name]) or name in new, name
    pixels = torch.randn(1, 3, 70, 98)
    outputs = model.heads["far"](model.backbone(pixels), torch.zeros(1, 70, 98, dtype=torch.bool))["depth"]
    torch.testing.assert_close(outputs, torch.full_like(outputs, 2.0), atol=1e-2, rtol=0)  # a quarter of 8 m
    outputs.mean().backward()
    assert model.heads["far"].conv3.weight.grad.abs().sum() > 0


def test_options_of_the_weights_are_no_warning(relative_folder):
    sections = configs.model_sections(
        {"backbone": VIT, "heads": {"depth": {**DPT, "output": "sigmoid"}}, "weights": str(relative_folder)}, "mine"
    )
    model = build_from_architecture(sections.architecture, {"depth": ()})
    (fit,) = load_pretrained(model, sections)
    assert not [note for note in fit.notes if note.startswith("Warning")]
    assert any("is untrained" in note for note in fit.notes)


def test_relative_and_inverse_share_all_weights(relative_folder):
    relative = convert(relative_folder).model.state_dict()
    for output in ("relative", "inverse"):
        model = densevit.create_model(VIT, heads={"depth": {**DPT, "output": output}}, weights=str(relative_folder))
        assert all(torch.equal(x, relative[name]) for name, x in model.model.state_dict().items())


def test_a_run_of_relative_depth_starts_metres_too(relative_folder, tmp_path):
    write(convert(relative_folder), tmp_path / "run")
    metres = {**DPT, "output": "sigmoid", "weights": str(tmp_path / "run")}
    model = densevit.create_model(VIT, heads={"depth": metres}).model
    saved = read(tmp_path / "run").tensors
    assert torch.equal(model.heads["depth"].conv2.weight, saved["heads.depth.conv2.weight"])
    assert not model.heads["depth"].conv3.weight.any()


def test_encoder_alone_is_loaded_as_the_authors_do(relative_folder):
    torch.manual_seed(3)
    encoder = {**VIT, "weights": str(relative_folder)}
    model = densevit.create_model(encoder, heads={"depth": {**DPT, "output": "sigmoid"}}).model
    relative = convert(relative_folder).model
    assert torch.equal(model.backbone.norm.weight, relative.backbone.norm.weight)
    assert not torch.equal(model.heads["depth"].conv1.weight, relative.heads["depth"].conv1.weight)


def test_a_file_without_max_depth_is_reported(relative_folder, tmp_path):
    write(convert(relative_folder), tmp_path / "run")
    export(tmp_path / "run", "depth-anything-v2").write(tmp_path / "depth_anything_v2_metric_hypersim_vits.pth")
    found = convert(tmp_path / "depth_anything_v2_metric_hypersim_vits.pth")
    (note,) = [note for note in found.fit.notes if note.startswith("Assumed")]
    assert "heads.depth.output relative" in note and "depth-anything-v2-indoor or depth-anything-v2-outdoor" in note
    source = tmp_path / "depth_anything_v2_metric_hypersim_vits.pth"
    own = convert(source, "depth-anything-v2-indoor", ["heads.depth.max_depth=12"])
    assert own.model.heads["depth"].max_depth == 12.0 and own.model.heads["depth"].quantity == "depth"
    assert convert(source, "depth-anything-v1").section.options["features"] == (3, 4, 5, 6)


def test_a_segmentation_head_does_not_load_a_depth_model(relative_folder):
    with pytest.raises(
        WeightsError, match="has heads for depth, and the config has for segmentation. For its backbone"
    ):
        densevit.create_model(
            VIT,
            heads={"segmentation": {"name": "dpt_segmentation"}},
            classes={"segmentation": ["a", "b"]},
            weights=str(relative_folder),
        )
