"""Foundation backbones of timm: the norms of their maps."""

import torch

from tests.random_weights import randomise


def test_feature_norm_is_the_final_norm_of_each_map():
    """The last map is timm's `forward_features`; the others are the raw maps, normalised by hand."""
    import timm

    from densevit_backbones.timm import Timm

    name, model_args = "vit_small_patch14_reg4_dinov2", {"depth": 4, "embed_dim": 64, "num_heads": 2}
    backbone = Timm(name, feature_norm=True, model_args=model_args).eval()
    randomise(backbone)
    reference = timm.create_model(name, dynamic_img_size=True, **model_args).eval()
    assert not reference.load_state_dict(backbone.model.state_dict(), strict=False).unexpected_keys
    raw = Timm(name, model_args=model_args).eval()
    raw.model.load_state_dict(backbone.model.state_dict(), strict=False)
    images = torch.randn(2, 3, 4 * backbone.strides[0], 6 * backbone.strides[0])
    norm = reference.norm
    with torch.no_grad():
        tokens = reference.forward_features(images)[:, reference.num_prefix_tokens :]  # (B, 24, C)
        maps = backbone(images)
        torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), tokens, atol=1e-4, rtol=1e-4)
        for x, y in zip(maps, raw(images), strict=True):
            expected = torch.nn.functional.layer_norm(
                y.permute(0, 2, 3, 1), norm.normalized_shape, norm.weight, norm.bias, norm.eps
            )
            torch.testing.assert_close(x, expected.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)
    depths = [{id(p) for p in group} for group in backbone.parameter_depths()]
    assert {id(p) for p in backbone.model.norm.parameters()} <= depths[-1]
