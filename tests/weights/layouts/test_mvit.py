import re
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional as F

from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.layouts import find

if TYPE_CHECKING:
    from timm.models.mvitv2 import MultiScaleVit


pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", ["mvitv2_tiny", "mvitv2_small", "mvitv2_base", "mvitv2_base_cls", "mvitv2_large"])
def test_all_variants_are_translated_completely(name, loaded):
    import timm

    with torch.device("meta"):
        state = timm.create_model(name, pretrained=False).state_dict()
    loaded(state, "timm-mvit")
    section = {"name": "mvit", "variant": name.split("_")[1], "version": 2, "image_size": 224}
    section["class_token"] = name.endswith("cls")
    assert describe(state, find("timm-mvit")) == {"backbone": section}


def nano(token: bool) -> "MultiScaleVit":
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    cfg = MultiScaleVitCfg((1, 1, 3, 1), embed_dim=32, use_cls_token=token)
    return MultiScaleVit(cfg, img_size=(96, 96), num_classes=7).eval()


@pytest.mark.parity("timm-mvit")
@pytest.mark.parametrize("token", [False, True], ids=["", "with a class token"])
def test_features_match_timm_and_round_trip(token, loaded, randomise):
    reference = randomise(nano(token))
    state = reference.state_dict()
    mvit = loaded(state, "timm-mvit")
    for norm in mvit.feature_norms[:3]:
        randomise(norm)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        raw = reference.forward_intermediates(images, intermediates_only=True)
        for i, (x, y) in enumerate(zip(mvit(images), raw, strict=True)):
            norm = mvit.feature_norms[i] if i < 3 else reference.norm
            y = F.layer_norm(y.permute(0, 2, 3, 1), norm.normalized_shape, norm.weight, norm.bias, 1e-6)
            torch.testing.assert_close(x, y.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)
    back, unknown = translate_back(mvit.state_dict(), find("timm-mvit"))
    assert unknown == [] and back.keys() == {key for key in state if not key.startswith("head.")}
    assert all(torch.equal(back[key], state[key]) for key in back)


def test_official_release_is_translated_as_in_timm(released, loaded):
    import timm
    from timm.models.mvitv2 import checkpoint_filter_fn

    state = released("MViTv2_T_in1k")
    mvit = loaded(state, "facebook-mvitv2")
    with torch.device("meta"):
        reference = timm.create_model("mvitv2_tiny", pretrained=False)
    expected = translate(checkpoint_filter_fn(state, reference), find("timm-mvit")).tensors
    assert {f"feature_norms.{i}.{name}" for i in (0, 1, 2) for name in ("weight", "bias")} == (
        mvit.state_dict().keys() - expected.keys()
    )
    assert all(torch.equal(mvit.state_dict()[key], x) for key, x in expected.items())
    left_out = translate(state, find("facebook-mvitv2")).left_out
    assert left_out.keys() == {"head.projection.weight", "head.projection.bias"}


def test_time_axis_of_kernels_is_removed(released, loaded):
    state = released("MViTv2_T_in1k")
    longer = {key: x[:, :, None] if x.ndim == 4 else x for key, x in state.items()}
    assert sum(x.ndim == 5 for x in longer.values()) == 31
    found, expected = (loaded(x, "facebook-mvitv2").state_dict() for x in (longer, state))
    assert all(torch.equal(found[key], x) for key, x in expected.items() if not key.startswith("feature_norms."))


@pytest.mark.parametrize("name", ["mvitv2_small", "mvitv2_base_cls", "mvitv2_large"])
def test_other_official_sizes_have_timm_s_tensors(name, loaded):
    """The names are those that timm converts into its own."""
    import timm
    from timm.models.mvitv2 import checkpoint_filter_fn

    with torch.device("meta"):
        reference = timm.create_model(name, pretrained=False)
        starts = [sum(reference.depths[:i]) for i in range(4)]

    def official(key: str) -> str:
        key = re.sub(r"stages\.(\d)\.blocks\.(\d+)", lambda m: f"blocks.{starts[int(m[1])] + int(m[2])}", key)
        return (
            key.replace("shortcut_proj_attn", "proj").replace("shortcut_proj_mlp", "proj").replace("fc.", "projection.")
        )

    state = {official(key): x for key, x in reference.state_dict().items()}
    as_timm = checkpoint_filter_fn(state, reference)
    assert {key: x.shape for key, x in as_timm.items()} == {k: x.shape for k, x in reference.state_dict().items()}
    layout = "facebook-mvitv2"
    loaded(state, layout)
    assert translate(state, find(layout)).origins == translate(as_timm, find("timm-mvit")).origins


def test_huge_variant_is_named_and_refused():
    import timm

    with torch.device("meta"):
        state = timm.create_model("mvitv2_huge_cls", pretrained=False).state_dict()
    with pytest.raises(WeightsError, match=r"192 channels and \(4, 8, 60, 8\) blocks .* large"):
        describe(state, find("timm-mvit"))


def test_another_number_of_blocks_is_named():
    state = {f"blocks.{i}.norm1.weight": torch.zeros(96) for i in range(11)}
    with pytest.raises(WeightsError, match=r"An MViTv2 of 11 blocks; expected a released one, of 10, 16, 24, 48\."):
        translate(state, find("facebook-mvitv2"))
