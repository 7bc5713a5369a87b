"""ViTs, and heads on them, compute what their authors' code does, as recorded in `originals`."""

import pytest
import torch
from torch.nn import functional as F

from densevit.layouts import find
from densevit_backbones.vit.variants import VARIANTS, Variant
from densevit_checkpoints.recognition import recognise, same_tensors
from tests.checkpoints.layouts.originals.weights import (
    random_depth_anything,
    random_depth_anything_3,
    random_dpt,
    random_google,
    random_image,
    random_weights,
)
from tests.checkpoints.layouts.recordings import recorded, size_of
from tests.checkpoints.layouts.translations import loaded, whole

pytestmark = pytest.mark.integration


CASES = {  # file: layout, position resizing of the layout
    "dinov2": ("dinov2", "bicubic_offset"),
    "dinov2-registers": ("dinov2", "antialiased"),
    "mae": ("mae", "bicubic"),
    "beit": ("beit", "bicubic"),
    "beit-shared": ("beit", "bicubic"),
}


@pytest.fixture(autouse=True)
def recorded_variant(variant):
    variant(VARIANTS, "nano", Variant(32, 4, 2, 0.0))


def features(vit, key):
    return vit(random_image(*size_of(key)))[int(key.partition(".")[2]) - 1]


@pytest.mark.parity("dinov2", "mae", "beit")
@pytest.mark.parametrize("original", CASES)
@torch.no_grad()
def test_features_are_those_of_the_original_with_its_position_resizing_only(original):
    layout, resizing = CASES[original]
    shapes, maps = recorded(original)
    state = random_weights(shapes)
    vit = loaded(state, layout)
    assert (vit.position_encoding.resizing, vit.feature_blocks) == (resizing, (1, 2, 3, 4))
    for key, expected in maps.items():
        assert expected.std() > 0.5
        torch.testing.assert_close(features(vit, key), expected, atol=5e-5, rtol=1e-5)
    if layout == "beit":  # recorded at one size
        return
    trained = {"dinov2": "56x56", "mae": "64x64"}[layout]
    for other in {"antialiased", "bicubic", "bicubic_offset", "bilinear"} - {resizing}:
        vit = loaded(state, layout, position_resizing=other)
        for key, expected in maps.items():
            same = torch.allclose(features(vit, key), expected, atol=1e-3)
            assert same == key.startswith(trained), (other, key)


@pytest.mark.parity("google-vit")
@torch.no_grad()
def test_google_s_features_are_those_of_the_original():
    shapes, maps = recorded("google-hybrid")
    state = random_google(shapes)
    assert recognise({f"opt/target/{key}": x for key, x in state.items()}).name == "google-vit"  # of a training
    vit, with_erf = loaded(state, "google-vit"), loaded(state, "google-vit", gelu="erf")
    [(key, expected)] = maps.items()
    images = random_image(*size_of(key))
    assert expected.std() > 0.5
    torch.testing.assert_close(vit(images)[-1], expected, atol=5e-5, rtol=1e-5)
    assert (with_erf(images)[-1] - expected).abs().max() > 2e-4


DPT = r"pretrained\.model\.(norm|head)\.|scratch\.refinenet4\.resConfUnit1\."
ANYTHING = r"pretrained\.mask_token|depth_head\.scratch\.refinenet4\.resConfUnit1\."
DENSE = {  # file: layout, name under which it is recognised if another, weights, tensors without effect
    **{name: (name, name, random_dpt, DPT) for name in ("dpt", "dpt-hybrid", "dpt-segmentation")},
    "dpt-hybrid-nyu": ("dpt-hybrid-nyu", "dpt-hybrid", random_dpt, DPT),
    "dpt-hybrid-segmentation": ("dpt-hybrid-segmentation", "dpt-hybrid-segmentation", random_dpt, DPT),
    **{
        f"depth-anything-v2{data}": (f"depth-anything-v2{data}", "depth-anything-v2", random_depth_anything, ANYTHING)
        for data in ("", "-indoor", "-outdoor")
    },
    "mmseg-setr-naive": ("mmseg-setr-naive", "mmseg-setr-naive", random_weights, "(?!)"),
    "mmseg-setr-naive-ade20k": (*["mmseg-setr-naive-ade20k"] * 2, random_weights, r"auxiliary_head\."),
    "mmseg-setr-pup": ("mmseg-setr", "mmseg-setr", random_weights, "(?!)"),
    "mmseg-setr-mla": ("mmseg-setr-mla", "mmseg-setr-mla", random_weights, r"backbone\.cls_token"),
}


def output(model, size):
    """Every fifth pixel of the head's maps, as recorded."""
    (head,) = model.heads.values()
    outputs = head(model.backbone(random_image(*size)), torch.zeros(1, *size, dtype=torch.bool))
    return head.maps(outputs, size)[..., ::5, ::5]


@pytest.mark.parity("dpt", "dpt-hybrid", "dpt-hybrid-nyu", "dpt-segmentation", "dpt-hybrid-segmentation")
@pytest.mark.parity("depth-anything-v2", "depth-anything-v2-indoor", "depth-anything-v2-outdoor")
@pytest.mark.parity("mmseg-setr", "mmseg-setr-naive", "mmseg-setr-naive-ade20k", "mmseg-setr-mla")
@pytest.mark.parametrize("original", DENSE)
@torch.no_grad()
def test_maps_of_heads_are_those_of_the_original(original):
    name, recognised, randomly, without_effect = DENSE[original]
    shapes, maps = recorded(original)
    state = randomly(shapes)
    assert recognise(state).name == recognised
    assert name == recognised or name in same_tensors(find(recognised))
    model = whole(state, find(name), without_effect)
    auxiliary = [maps.pop(key) for key in sorted(maps) if key.startswith("auxiliary")]
    for key, expected in maps.items():
        scale = expected.abs().max().item()
        assert expected.std() > 0.1 * scale
        found = output(model, size_of(key)).view_as(expected)
        torch.testing.assert_close(found, expected, atol=1e-5 * scale, rtol=1e-5)
    if auxiliary:
        features, head = model.backbone(random_image(64, 64)), model.heads["segmentation"]
        if original == "mmseg-setr-mla":
            features, auxiliary = head.decode(features)[1], auxiliary[::-1]  # starting with the first map
        for classify, x, expected in zip(head.auxiliary, features, auxiliary, strict=False):
            torch.testing.assert_close(classify(x)[..., ::5, ::5], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parity("depth-anything-3", "depth-anything-3-metric")
@pytest.mark.parametrize(
    ("name", "model_name", "power"), [("", "da3mono-large", -1), ("-metric", "da3metric-large", 1)]
)
@torch.no_grad()
def test_depth_and_sky_of_depth_anything_3_are_those_of_the_original(name, model_name, power):
    """Every fifth pixel of the depth and sky of `DepthAnything3Net.head`, on a DINOv2 of 4 blocks of 32 channels."""
    shapes, maps = recorded("depth-anything-3")
    state = random_depth_anything_3(shapes)
    layout = recognise(state, metadata={"config": {"model_name": model_name}})
    assert (layout.name, recognise(state).name) == (f"depth-anything-3{name}", "depth-anything-3")
    model = whole(state, layout)
    for key, (depth, sky) in maps.items():
        values, found = output(model, size_of(key))[0]
        assert depth.log().std() > 0.2 and 0.2 < (sky >= 0.3).float().mean() < 0.8
        torch.testing.assert_close(values**power, depth, atol=0, rtol=1e-5)
        torch.testing.assert_close(found, sky, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_metres_are_focal_times_output_over_300_for_the_focal_length_of_the_resized_image():
    """An image of one colour, which resizing does not change."""
    state = random_depth_anything_3(recorded("depth-anything-3")[0])
    state["model.head.scratch.sky_output_conv2.2.bias"] -= 100  # no sky
    model, image = whole(state, find("depth-anything-3-metric")), torch.full((3, 140, 196), 99, dtype=torch.uint8)
    for height, width, focal in ((140, 196, 600), (70, 98, 300)):
        images, padding = image[None, :, :height, :width], torch.zeros(1, height, width, dtype=torch.bool)
        outputs = model({"images": images, "padding_mask": padding, "targets": []})["depth"]["depth"]
        metres = F.interpolate(focal * outputs / 300, (140, 196), mode="bilinear")[0, 0]
        found = model.predict(image.permute(1, 2, 0).numpy(), image_size=width, focal=600.0).depth
        torch.testing.assert_close(found, metres, atol=0, rtol=1e-4)


@pytest.mark.parity("dpt-hybrid-kitti")
@torch.no_grad()
def test_depth_of_kitti_is_that_of_the_relative_model_in_metres():
    """`DPTDepthModel` with the scale and shift of `run_monodepth.py`, of the recorded relative depth."""
    shapes, maps = recorded("dpt-hybrid")
    model = whole(random_dpt(shapes), find("dpt-hybrid-kitti"), DPT)
    for key, relative in maps.items():
        expected = 1 / (0.00006016 * relative + 0.00579).clamp(min=1e-8)
        torch.testing.assert_close(output(model, size_of(key))[:, 0], expected, atol=1e-3, rtol=1e-4)
