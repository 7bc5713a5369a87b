"""The first layers of backbones for any channels: every family, against the same model of three channels and timm's."""

import pytest
import torch
from torch import Tensor, nn

import densevit
from densevit.channels import RGB, Channels
from densevit.config import BackboneSection, ModelSections
from densevit.errors import ConfigError, WeightsError
from densevit.interfaces import Backbone
from densevit.model import DenseModel, backbone_from, build_backbone
from densevit.model.stem_channels import adapted, adapted_state, stem_tensors
from densevit.weights.foreign_checkpoint import TranslatedCheckpoint
from densevit.weights.pretrained import fit_backbone
from densevit.weights.state_dict_loading import fit, resize_kernel
from densevit_backbones.swin import Swin

FAMILIES = {
    "vit": {"variant": "nano", "image_size": 64},
    "vit, convolutions": {"variant": "nano", "image_size": 64, "stem": "conv"},
    "vit, resnet": {"variant": "nano", "image_size": 64, "stem": "resnet"},
    "windowed_vit": {"variant": "nano", "image_size": 64},
    "swin": {"variant": "nano"},
    "swin, convolutions": {"variant": "nano", "stem": "conv"},
    "mit": {},
    "mvit": {"variant": "nano"},
    "mvit, convolutions": {"variant": "nano", "stem": "conv"},
    "resnet": {"depth": 18},
    "resnet, deep stem": {"depth": 18, "variant": "d"},
    "timm": {"model": "convnext_atto"},
    "timm, patches": {"model": "vit_tiny_patch16_224"},
    "timm, lite": {"model": "efficientnet_lite0"},
    **{name: {"variant": "nano"} for name in ("ceit", "cvt", "cycle_mlp", "deep_vit", "local_vit", "s2_mlp")},
    "deep_vit, patches": {"variant": "small", "features": [1, 2]},
    "vision_longformer": {"variant": "nano"},
}
NIR = ("red", "green", "blue", "nir")


def _section(family: str, names: tuple[str, ...] = RGB.names) -> BackboneSection:
    count = len(names)
    channels = Channels(names, "float32", ((0.0, 1.0),) * count)
    name, normalisation = family.partition(",")[0], {"mean": (0.5,) * count, "std": (1.0,) * count}
    return BackboneSection(name=name, channels=channels, **normalisation, **FAMILIES[family])


def _randomised(backbone: Backbone) -> Backbone:
    with torch.no_grad():
        for value in backbone.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.1, 0.4) if value.ndim < 2 else value.normal_(std=0.1)
    return backbone.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_any_channels(family):
    torch.manual_seed(0)
    plain = densevit.create_backbone(family.partition(",")[0], **FAMILIES[family])
    torch.manual_seed(0)
    three = backbone_from(_section(family))
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), three.state_dict().values(), strict=True))
    for names in (("grey",), (*NIR, "swir")):
        backbone = _randomised(backbone_from(_section(family, names)))
        images = torch.rand(2, len(names), 64, 96, requires_grad=True)
        features = backbone(images)
        assert [x.shape[1] for x in features] == [*backbone.channels]
        (features[-1] * torch.randn_like(features[-1])).sum().backward()
        assert images.grad.abs().amax((0, 2, 3)).all()  # every channel has an effect


@pytest.mark.parametrize("family", FAMILIES)
def test_a_grey_image_has_the_same_features_after_adapting(family):
    """Of an image with equal channels, with RGB's filters kept (of four channels), or none (of two)."""
    source = _randomised(backbone_from(_section(family)))
    grey = torch.rand(1, 1, 64, 96)
    expected = source(grey.expand(-1, 3, -1, -1))
    for names in (NIR, ("near", "far")):
        section = _section(family, names)
        backbone = backbone_from(section)
        state, keys = adapted_state(source.state_dict(), section, RGB.names)
        assert keys
        backbone.load_state_dict(state)
        found = backbone.eval()(grey.expand(-1, len(names), -1, -1))
        if "resnet" in family and family.startswith("vit"):
            continue  # its filters are standardised, so that their scale has no effect
        for x, y in zip(found, expected, strict=True):
            assert (x - y).abs().max() <= 1e-4 * y.abs().max()


def test_filters_go_by_name():
    kernel = torch.randn(4, 3, 2, 2)
    red, green, blue = kernel.unbind(1)
    order = adapted(kernel, RGB.names, ("blue", "red", "green"))
    assert torch.equal(order, torch.stack((blue, red, green), 1))
    more = adapted(kernel, RGB.names, (*RGB.names, "nir", "swir"))
    assert torch.allclose(more[:, :3], kernel * 3 / 5)
    assert torch.allclose(more[:, 3], kernel.mean(1) * 3 / 5)
    back = adapted(torch.randn(4, 5, 2, 2), ("a", "b", "c", "d", "e"), ("e", "a"))
    assert back.shape == (4, 2, 2, 2)
    assert torch.equal(adapted(kernel, RGB.names, ("thermal",)), (red + green + blue)[:, None])


def test_one_channel_is_adapted_as_by_timm():
    from timm.models._manipulate import adapt_input_conv

    kernel = torch.randn(8, 3, 7, 7)
    assert torch.allclose(adapted(kernel, RGB.names, ("grey",)), adapt_input_conv(1, kernel))


def test_stems_are_found_without_memory():
    backbone = _section("resnet, deep stem")
    assert stem_tensors(backbone) == ["conv1.0.weight"]


class Three(Backbone):
    """A third party's backbone of three channels."""

    channels, strides = (3,), (1,)

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.convolution(images)]


def test_a_third_partys_backbone_of_three_channels_is_named():
    channels = Channels(NIR, "uint16", ((0.0, 1.0),) * 4)
    backbone = BackboneSection(name=f"{__name__}:Three", channels=channels)
    with pytest.raises(ConfigError, match=r"Three' takes images of three channels, and the data's have 4: red, green"):
        backbone_from(backbone)
    with pytest.raises(ConfigError, match=r"backbone\.channels: dtype and range are missing"):
        backbone_from(BackboneSection(name="swin", channels=Channels(NIR, "", ())))


@pytest.mark.parametrize(
    ("theirs", "ours"), ((RGB.names, NIR), (NIR, RGB.names), (NIR, (*NIR[::-1],)), (NIR, ("nir",)))
)
def test_weights_of_a_model_file_are_adapted(theirs, ours, tmp_path):
    def created(names: tuple[str, ...], weights: str | None = None) -> densevit.Predictor:
        count = len(names)
        channels = {"names": [*names], "dtype": "uint16", "range": [[0.0, 100.0]] * count}
        backbone = {"name": "resnet", "depth": 18, "mean": [0.4] * count, "std": [0.2] * count, "channels": channels}
        if weights is not None:
            backbone["weights"] = weights
        return densevit.create_model(backbone, heads={"seg": "setr"}, classes=["a", "b"])

    source = created(theirs)
    densevit.save(source, tmp_path / "model.safetensors")
    kernel = source.model.backbone.state_dict()["conv1.weight"]
    assert densevit.load(tmp_path / "model.safetensors").model.channels.names == theirs
    found = created(ours, str(tmp_path / "model.safetensors")).model.backbone.state_dict()["conv1.weight"]
    assert torch.equal(found, adapted(kernel, theirs, ours))


def _model(backbone: BackboneSection) -> DenseModel:
    return DenseModel(backbone_from(backbone), {}, sections=ModelSections(backbone=backbone, heads={}))


def test_weights_in_half_precision_keep_their_type():
    kernel = torch.randn(16, 3, 4, 4).bfloat16()
    for names in (NIR, ("red",)):
        found, expected = adapted(kernel, RGB.names, names), adapted(kernel.float(), RGB.names, names)
        assert found.dtype == torch.bfloat16 and torch.allclose(found.float(), expected, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("grey", [True, False], ids=["grey", "RGB"])
def test_checkpoints_are_adapted_by_the_names_of_channels(grey):
    """A grey kernel is shared by all channels."""
    model = _model(_section("resnet", (*NIR[::-1],)))
    kernel = torch.randn(64, 1 if grey else 3, 7, 7)
    state = _randomised(build_backbone("resnet", depth=18)).state_dict() | {"conv1.weight": kernel}
    report = fit_backbone(model, TranslatedCheckpoint("theirs.pth", state), ())
    shares = [kernel[:, 0]] * 4 if grey else [kernel.mean(1) * 3, *(3 * kernel.flip(1)).unbind(1)]
    torch.testing.assert_close(report.tensors["conv1.weight"], torch.stack(shares, 1) / 4)
    how = f"filters of {'grey' if grey else 'red, green, blue'} for nir, blue, green, red, by name"
    assert report.adapted == [("conv1.weight", (*kernel.shape,), (64, 4, 7, 7), how)]


def test_patches_of_another_size_and_of_other_channels():
    """A tensor that is adapted twice counts once."""
    model = _model(_section("s2_mlp", NIR))
    state = _randomised(build_backbone("s2_mlp", variant="nano", patch_size=8)).state_dict()
    report = fit_backbone(model, TranslatedCheckpoint("theirs.pth", state), ())
    expected = resize_kernel(adapted(state["projection.weight"], RGB.names, NIR), (16, 16))
    assert torch.equal(report.tensors["projection.weight"], expected)
    assert len(report.adapted) == 2 and report.loaded == len(state) - 1


def test_only_kernels_on_patches_of_the_image_are_resized():
    state = {"0.weight": torch.randn(8, 5, 8, 8), "1.weight": torch.randn(4, 8, 2, 2)}
    first, second = nn.Conv2d(5, 8, 16, 16, bias=False), nn.Conv2d(8, 4, 2, 2, bias=False)
    report = fit(nn.Sequential(first, second), state, "theirs.pth")
    assert torch.equal(report.tensors["0.weight"], resize_kernel(state["0.weight"], (16, 16)))
    for module in (nn.Sequential(first, nn.Conv2d(8, 4, 4, 4, bias=False)), nn.Conv2d(5, 8, 1, bias=False)):
        of_module = state if isinstance(module, nn.Sequential) else {"weight": state["0.weight"]}
        with pytest.raises(WeightsError, match="1 have another shape"):
            fit(module, of_module, "theirs.pth")


class OnPatches(Backbone):
    """A linear layer on flattened pixels, which is no convolution. Its constructor reads values."""

    channels, strides = (4,), (2,)

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.mean = self.std = (0.5,) * in_channels
        self.linear = nn.Linear(4 * in_channels, 4)
        self.scale = float(self.linear.weight.detach().abs().max())

    def forward(self, images: Tensor) -> list[Tensor]:
        cells = nn.functional.pixel_unshuffle(images, 2).permute(0, 2, 3, 1)
        return [self.linear(cells).permute(0, 3, 1, 2)]


def test_a_first_layer_that_is_no_convolution_is_named():
    name = f"{__name__}:OnPatches"
    backbone = BackboneSection(name=name, channels=Channels(NIR, "float32", ((0.0, 1.0),) * 4))
    random_state = torch.get_rng_state()
    assert stem_tensors(backbone) == []
    assert torch.equal(torch.get_rng_state(), random_state)
    checkpoint = TranslatedCheckpoint("theirs.pth", build_backbone(name).state_dict())
    with pytest.raises(WeightsError, match=r"1 have another shape \(linear.weight is \(4, 12\), expected \(4, 16\)\)"):
        fit_backbone(_model(backbone), checkpoint, ())
    report = fit_backbone(_model(backbone), checkpoint, ("linear.weight",))
    assert [*report.left_out] == ["linear.weight"] and [*report.tensors] == ["linear.bias"]


class PassesOn(Swin):
    """A third party's subclass, whose constructor passes options on."""

    def __init__(self, **options: object) -> None:
        super().__init__(variant="nano", **options)  # type: ignore[arg-type]


def test_the_constructor_may_pass_in_channels_on():
    channels = Channels(NIR, "float32", ((0.0, 1.0),) * 4)
    backbone = BackboneSection(name=f"{__name__}:PassesOn", mean=(0.5,) * 4, std=(1.0,) * 4, channels=channels)
    assert [x.shape[1] for x in backbone_from(backbone)(torch.rand(1, 4, 32, 32))] == [32, 64, 128, 256]
    assert stem_tensors(backbone) == ["patch_embed.weight"]


def test_in_channels_is_derived_from_the_images():
    backbone = _section("swin", NIR)
    for count, fits in ((4, True), (5, False)):
        given = backbone.model_copy(update={"in_channels": count})
        if fits:
            assert backbone_from(given).patch_embed.weight.shape[1] == 4
        else:
            with pytest.raises(
                ConfigError, match=r"backbone\.in_channels is 5, but the images have red, green, blue, nir"
            ):
                backbone_from(given)


def test_weights_need_a_known_first_layer():
    """Three channels that are not RGB, for a backbone without `in_channels`."""
    names = ("nir", "red", "green")
    backbone = BackboneSection(name=f"{__name__}:Three", channels=Channels(names, "uint8", ((0.0, 255.0),) * 3))
    checkpoint = TranslatedCheckpoint("theirs.pth", Three().state_dict())
    with pytest.raises(ConfigError, match=r"Three' has no in_channels, so its first layer is unknown"):
        fit_backbone(_model(backbone), checkpoint, ())
