"""transformers' DPT, depth and segmentation, on its own ViT and hybrid: complete models and round trips.

For non-square images transformers resizes positions bilinearly; the reference here uses our interpolation.
"""

import re

import pytest
import torch

from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.label_sets import preset_classes
from densevit.weights.layouts import find, recognise
from densevit_workbench.interchange.foreign_weights import convert

pytestmark = pytest.mark.integration

K, SIDE = 7, 64
NAMES = [f"surface {i}" for i in range(K)]
SIZES = {"square": [(64, 64)], "padded": [(64, 96), (45, 77)]}
WITHOUT_EFFECT = r"dpt\.layernorm\.|neck\.fusion_stage\.layers\.0\.residual_layer1\."
KINDS = {
    "transformers-dpt": ("DPTForDepthEstimation", False),
    "transformers-dpt-hybrid": ("DPTForDepthEstimation", True),
    "transformers-dpt-segmentation": ("DPTForSemanticSegmentation", False),
    "transformers-dpt-hybrid-segmentation": ("DPTForSemanticSegmentation", True),
}


def build(name):
    """transformers' model with the width of our nano, for square images of SIDE pixels."""
    import transformers

    kind, hybrid = KINDS[name]
    config = transformers.DPTConfig(
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        layer_norm_eps=1e-6,
        image_size=SIDE,
        is_hybrid=hybrid,
        backbone_out_indices=[0, 1, 4, 5] if hybrid else [1, 2, 4, 5],
        neck_hidden_sizes=[256, 512, 128, 128] if hybrid else [32, 48, 96, 128],
        fusion_hidden_size=64,
        num_labels=K,
        use_batch_norm_in_fusion_residual=kind == "DPTForSemanticSegmentation",
    )
    return getattr(transformers, kind)(config).eval()


@pytest.fixture(params=KINDS)
def pair(request, randomise):
    """The layout, and a model of transformers."""
    torch.manual_seed(0)
    reference = randomise(build(request.param))
    for name, parameter in reference.named_parameters():
        if name.endswith("embeddings"):
            torch.nn.init.normal_(parameter)
        elif name.endswith(
            "norm3.weight"
        ):  # residual branches as small as trained ones; otherwise rounding errors grow
            parameter.data *= 0.2
        elif ".bit." in name and "conv" in name:  # standardised: a variance for which their epsilon is negligible
            parameter.data *= 1000
    return find(request.param), reference


@torch.no_grad()
def test_blocks_of_the_feature_maps_are_those_of_config_json(randomise, tmp_path):
    from transformers import DPTForDepthEstimation

    for indices in ([0, 2, 3, 5], [1, 2, 4, 5]):
        config = build("transformers-dpt").config
        config.backbone_out_indices = indices
        reference = randomise(DPTForDepthEstimation(config))
        reference.save_pretrained(tmp_path / str(indices[0]))
        found = convert(tmp_path / str(indices[0]))
        assert found.section.options["features"] == tuple(index + 1 for index in indices) and found.assumed == ()
        images = torch.randint(256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
        size = (SIDE, SIDE)
        padding = torch.zeros(1, *size, dtype=torch.bool)
        batch = {"images": images, "padding_mask": padding, "targets": [{"size": size, "original_size": size}]}
        depth = found.model.heads["depth"].maps(found.model(batch)["depth"], size)
        expected = reference((images / 255 - 0.5) / 0.5).predicted_depth[:, None]
        assert expected.std() > 0.1
        torch.testing.assert_close(depth, expected, atol=1e-4, rtol=1e-4)


def test_hybrid_s_first_maps_are_those_of_its_resnet():
    options = find("transformers-dpt").options.saved
    config = {"model_type": "dpt", "backbone_out_indices": [2, 5, 8, 11]}
    assert options({}, {"config": config}) == {"backbone.features": (3, 6, 9, 12)}
    assert options({}, {"config": config | {"is_hybrid": True}}) == {"backbone.features": (9, 12)}


def of_any_size(reference, size):
    """Allows images that are not square, by passing the token grid."""
    grid = (size[0] // 16, size[1] // 16)
    embeddings = reference.dpt.embeddings
    embeddings.image_size = size
    stage = reference.neck.reassemble_stage
    stage.register_forward_pre_hook(lambda module, inputs: (inputs[0], *grid))


@pytest.mark.parity("transformers-dpt", "transformers-dpt-hybrid", "transformers-dpt-segmentation")
@pytest.mark.parity("transformers-dpt-hybrid-segmentation")
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_model_matches_transformers(pair, sizes, whole):
    layout, reference = pair
    state = reference.state_dict()
    assert recognise(state).name == layout.name
    model = whole(state, layout, WITHOUT_EFFECT, metadata={"classes": NAMES})
    torch.manual_seed(1)
    H, W = (max(size[axis] for size in sizes) for axis in (0, 1))
    images, padding = torch.zeros(len(sizes), 3, H, W, dtype=torch.uint8), torch.ones(len(sizes), H, W).bool()
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w] = torch.randint(256, (3, h, w))
        padding[i, :h, :w] = False
    batch = {"images": images, "padding_mask": padding, "targets": [{"size": s, "original_size": s} for s in sizes]}
    pixels = ((images / 255 - 0.5) / 0.5).masked_fill(padding[:, None], 0.0)  # as in its image processor
    if H != W:
        of_any_size(reference, (H, W))
    task = next(iter(model.heads))
    with torch.no_grad():
        outputs = model(batch)
        found = model.heads[task].maps(outputs[task], (H, W))
        theirs = reference(pixels)
        expected = theirs.predicted_depth[:, None] if task == "depth" else theirs.logits
    assert expected.std() > 0.1 and (expected != 0).float().mean() > 0.2
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    if task == "segmentation":
        assert [one.name for one in model.heads[task].classes] == NAMES
        features = model.backbone(model.normalise(images, padding))
        with torch.no_grad():
            fused = model.heads[task].decode(features, (H, W))[-2]
            beside = model.heads[task].auxiliary(fused)
            torch.testing.assert_close(beside, reference.auxiliary_head(fused), atol=1e-4, rtol=1e-4)


def test_round_trip_preserves_tensors(pair):
    layout, reference = pair
    state = reference.state_dict()
    ours = translate(state, layout).tensors
    back, unknown = translate_back(ours, layout)
    assert unknown == [] and back.keys() == {key for key in state if not re.match(WITHOUT_EFFECT, key)}
    changed = {key for key in back if not torch.equal(back[key], state[key])}
    assert changed == {
        "dpt.embeddings.cls_token",
        "dpt.embeddings.position_embeddings",
    }  # our class token includes its position
    again = translate(back, layout).tensors
    assert again.keys() == ours.keys() and all(torch.equal(again[key], x) for key, x in ours.items())
    loaded = build(layout.name)
    left = loaded.load_state_dict(back, strict=False)
    assert left.unexpected_keys == [] and all(re.match(WITHOUT_EFFECT, key) for key in left.missing_keys)
    pixels = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        expected, found = reference(pixels), loaded(pixels)
    for one in ("predicted_depth", "logits"):
        if one in expected:
            assert torch.equal(found[one], expected[one])


def test_published_sizes_are_described_completely():
    """Intel/dpt-large-ade and Intel/dpt-hybrid-midas, built from their configs."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTForSemanticSegmentation

    large = DPTConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        backbone_out_indices=[5, 11, 17, 23],
        neck_hidden_sizes=[256, 512, 1024, 1024],
        num_labels=150,
        use_batch_norm_in_fusion_residual=True,
    )
    hybrid = DPTConfig(is_hybrid=True, backbone_out_indices=[0, 1, 8, 11], neck_hidden_sizes=[256, 512, 768, 768])
    with torch.device("meta"):
        segmenter, estimator = (
            DPTForSemanticSegmentation(large).state_dict(),
            DPTForDepthEstimation(hybrid).state_dict(),
        )
    backbone = {
        "name": "vit",
        "patch_size": 16,
        "image_size": 384,
        "readout": "project",
        "feature_norm": False,
        "position_resizing": "bilinear",
    }
    layout = recognise(segmenter)
    assert describe(segmenter, layout) == {
        "backbone": {**backbone, "variant": "large"},
        "heads": {
            "segmentation": {
                "name": "dpt_segmentation",
                "width": 256,
                "reassemble_channels": [256, 512, 1024, 1024],
            }
        },
    }
    assert layout.classes(segmenter, {})["segmentation"] == preset_classes("ade20k")
    assert describe(estimator, recognise(estimator)) == {
        "backbone": {**backbone, "variant": "base", "stem": "resnet"},
        "heads": {
            "depth": {
                "name": "dpt",
                "width": 256,
                "reassemble_channels": [256, 512, 768, 768],
                "output": "relative",
                "norm": "none",
            }
        },
    }
