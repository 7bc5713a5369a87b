"""The plugin `timm`: image sizes, selected maps, options, pretrained weights, depths and exports."""

import re
import sys
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import densevit
from densevit.weights.state_dict_io import read_header
from tests.random_weights import randomise


def create(**options) -> Any:
    return densevit.create_backbone("timm", **options)


# ---- sizes ----


def test_network_that_crops_gets_padded_input_and_cropped_maps():
    import timm

    backbone = create(model="convnext_atto").eval()
    reference = timm.create_model("convnext_atto").eval()
    randomise(backbone)
    reference.load_state_dict(backbone.model.state_dict(), strict=False)
    images = torch.randn(1, 3, 45, 83)
    with torch.no_grad():
        cut = reference.forward_intermediates(images, intermediates_only=True)
        padded = reference.forward_intermediates(F.pad(images, (0, 13, 0, 19)), intermediates_only=True)
        found = backbone(images)
    assert [tuple(x.shape[2:]) for x in cut] == [(11, 20), (5, 10), (2, 5), (1, 2)]
    assert [tuple(x.shape[2:]) for x in found] == [(12, 21), (6, 11), (3, 6), (2, 3)]
    for x, y in zip(found, padded, strict=True):
        torch.testing.assert_close(x, y[..., : x.shape[2], : x.shape[3]])


def test_fixed_size_model_resizes_larger_and_pads_smaller_images():
    backbone = create(model="levit_128s", image_size=[64, 128]).eval()
    randomise(backbone)
    assert backbone.input_size == (64, 128)
    large, small = torch.randn(1, 3, 192, 256), torch.randn(1, 3, 50, 100)
    fitted = F.interpolate(large, size=(64, 128), mode="bilinear", antialias=True)
    with torch.no_grad():
        for x, y in zip(backbone(large), backbone(fitted), strict=True):
            torch.testing.assert_close(x, F.interpolate(y, size=x.shape[-2:], mode="bilinear"))
        assert [tuple(x.shape[2:]) for x in backbone(large)] == [(12, 16), (6, 8), (3, 4)]
        for x, y in zip(backbone(small), backbone(F.pad(small, (0, 28, 0, 14))), strict=True):
            torch.testing.assert_close(x, y[..., : x.shape[2], : x.shape[3]])


def test_requested_size_is_rounded_up_to_whole_cells():
    """DINOv2's patches of 14 pixels: 8 would omit 16 pixels of 128; BEiT's bias tables are for whole maps."""
    assert create(model="vit_small_patch14_dinov2", image_size=128, model_args={"depth": 1}).built_size == (140, 140)
    beit = create(model="beit_base_patch16_224", image_size=100, model_args={"depth": 1})
    assert (beit.built_size, beit.input_size) == ((112, 112), (100, 100))
    assert [tuple(x.shape[2:]) for x in beit(torch.randn(1, 3, 100, 100))] == [(7, 7)]


# ---- options ----


def test_maps_are_selected_and_described_as_they_are():
    every, two = create(model="convnext_atto", drop_path=0.3), create(model="convnext_atto", features=[2, 0])
    assert (two.strides, two.channels) == ((4, 16), (40, 160))  # later stages are dropped
    assert sum(p.numel() for p in two.parameters()) < 0.5 * sum(p.numel() for p in every.parameters())
    assert max(m.drop_prob for m in every.modules() if hasattr(m, "drop_prob")) == pytest.approx(0.3)
    assert create(model="convnext_atto", features=[-1]).strides == (32,)
    assert create(model="resnet18.a1_in1k").mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"model": "resnt18"}, ["'resnt18'", "resnet18,"]),
        ({"model": "convnext_atto", "features": [4]}, ["features is [4]", "maps 0 to 3", "3: stride 32"]),
        ({"model": "convnext_atto", "model_args": {"img_size": 64}}, ["img_size cannot be set there"]),
        ({"model": "local-dir:/data"}, ["'local-dir:/data' is a folder", "backbone.weights"]),
        ({"model": "efficientformer_l1", "image_size": 128}, ["224x224 only", "(128, 128)"]),
        ({"model": "vgg11", "drop_path": 0.2}, ["'vgg11' has no stochastic depth"]),
    ],
    ids=str,
)
def test_invalid_options_are_refused(options, facts):
    with pytest.raises(densevit.DensevitError, match=".*".join(map(re.escape, facts))):
        create(**options)


def test_missing_timm_is_an_error_with_the_fix(monkeypatch, uninstalled):
    for module in [module for module in sys.modules if module.startswith("densevit_backbones.timm")]:
        monkeypatch.delitem(sys.modules, module)
    uninstalled("timm")
    with pytest.raises(densevit.DensevitError, match=r"needs 'timm'.*pip install timm"):
        create(model="resnet18")


@pytest.mark.integration
def test_resumed_run_reads_no_pretrained_weights(monkeypatch, tmp_path):
    import huggingface_hub.constants
    import timm

    from densevit_backbones.timm import building

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    sections = {
        "backbone": {"name": "timm", "model": "resnet18", "pretrained": True},
        "heads": {"depth": {"name": "dpt", "max_depth": 10.0, "width": 8}},
        "data": {"name": "scenes", "image_size": 64, "batch_size": 2, "train_length": 4, "val_length": 2},
        "trainer": {"max_steps": 1, "accelerator": "cpu"},
    }
    with monkeypatch.context() as available:
        build = timm.create_model
        available.setattr(timm, "create_model", lambda name, pretrained, **arguments: build(name, **arguments))
        available.setattr(building, "timm_arguments", lambda *_: {})
        run = densevit.fit(sections, run_dir=tmp_path / "run").path
    resumed = densevit.fit(resume=run, overrides=["trainer.max_steps=2"])
    assert resumed.model.licences["timm:resnet18"].weights == timm.create_model("resnet18").pretrained_cfg["license"]
    assert "# licences of timm:resnet18: " in (run / "config.yaml").read_text()
    assert "timm:resnet18" in read_header(run / "model.safetensors")["licences"]
    # Neither does its model file, which keeps the option for a training with its config.
    assert densevit.load(run).sections.backbone.options["pretrained"] is True
    with pytest.raises(densevit.DensevitError, match="the download failed"):
        densevit.fit(sections, run_dir=tmp_path / "other")


# ---- export ----
