"""isl-org/DPT's checkpoints: the released lists of names, and a reference model on timm's ViT with these names."""

import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.label_sets import preset_classes, segmentation_classes
from densevit.weights.layouts import find, recognise, same_tensors

pytestmark = pytest.mark.integration

K, WIDTH, SIDE = 7, 64, 64
SIZES = {"square": [(64, 64)], "padded": [(64, 96), (45, 77)]}
WITHOUT_EFFECT = r"pretrained\.model\.(norm|head)\.|scratch\.refinenet4\.resConfUnit1\."


HYBRID = {"variant": "base", "stem": "resnet", "weight_standardization": "std"}
LARGE = {"variant": "large"}
DEPTH = {"name": "dpt", "output": "relative", "norm": "none"}
SEGMENTATION = {"name": "dpt_segmentation"}
RELEASES = {
    "dpt_large-midas": ("dpt", LARGE, DEPTH),
    "dpt_hybrid-midas": ("dpt-hybrid", HYBRID, DEPTH),
    "dpt_hybrid_nyu": ("dpt-hybrid", HYBRID, DEPTH),
    "dpt_hybrid_kitti": ("dpt-hybrid", HYBRID, DEPTH),
    "dpt_large-ade20k": ("dpt-segmentation", LARGE, SEGMENTATION),
    "dpt_hybrid-ade20k": ("dpt-hybrid-segmentation", HYBRID, SEGMENTATION),
}


@pytest.mark.parametrize(("name", "expected"), RELEASES.items(), ids=RELEASES)
def test_each_tensor_of_a_release_is_used_once_or_listed(name, expected, whole, released):
    layout, backbone, head = expected
    with torch.device("meta"):
        state = released(name)
    assert recognise(state).name == layout
    width = 1024 if backbone is LARGE else 768
    assert describe(state, find(layout)) == {
        "backbone": {
            "name": "vit",
            "patch_size": 16,
            "image_size": 384,
            "readout": "project",
            "feature_norm": False,
            "position_resizing": "bilinear",
        }
        | backbone,
        "heads": {
            "depth" if head is DEPTH else "segmentation": {
                "width": 256,
                "reassemble_channels": [256, 512, width, width],
            }
            | head
        },
    }
    model = whole(state, find(layout), WITHOUT_EFFECT)
    idle = translate(state, find(layout)).left_out
    assert len(idle) == (8 if head is DEPTH else 16)  # four of the ViT's, and a unit's convolutions and norms
    if head is SEGMENTATION:
        assert model.heads["segmentation"].classes == preset_classes("ade20k")
    total = sum(x.numel() for key, x in state.items() if key not in idle and "pos_embed" not in key)
    table = state["pretrained.model.pos_embed"].numel() - width  # the class token's row is added to the token
    assert sum(x.numel() for x in model.state_dict().values()) == total + table


@pytest.mark.parametrize(
    ("name", "scale", "shift", "max_depth"),
    [("nyu", 0.000305, 0.1378, 10.0), ("kitti", 0.00006016, 0.00579, 80.0)],
)
def test_metric_releases_give_metric_depth(name, scale, shift, max_depth, whole, released):
    with torch.device("meta"):
        state = released(f"dpt_hybrid_{name}")
    model = whole(state, find(f"dpt-hybrid-{name}"), WITHOUT_EFFECT)
    head = model.heads["depth"]
    assert head.quantity == "depth"
    assert (head.output, head.scale, head.shift, head.max_depth) == ("inverse", scale, shift, max_depth)


def test_tensors_of_several_layouts_name_them_all():
    assert same_tensors(find("dpt-hybrid")) == ["dpt-hybrid-nyu", "dpt-hybrid-kitti"]
    assert same_tensors(find("dpt")) == []


class Readout(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, x):
        return self.project(torch.cat([x[:, 1:], x[:, :1].expand_as(x[:, 1:])], -1)).transpose(1, 2)


class Unit(nn.Module):
    def __init__(self, normed):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=not normed) for _ in range(2))
        self.bn1, self.bn2 = (nn.BatchNorm2d(WIDTH) if normed else nn.Identity() for _ in range(2))

    def forward(self, x):
        return x + self.bn2(self.conv2(self.bn1(self.conv1(x.relu())).relu()))


class Fusion(nn.Module):
    def __init__(self, normed):
        super().__init__()
        self.out_conv, self.resConfUnit1, self.resConfUnit2 = nn.Conv2d(WIDTH, WIDTH, 1), Unit(normed), Unit(normed)

    def forward(self, x, other=None):
        x = x if other is None else x + self.resConfUnit1(other)
        return self.out_conv(doubled(self.resConfUnit2(x)))


def doubled(x):
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


def positions_on(table, grid):
    side = math.isqrt(table.shape[1] - 1)
    cells = table[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    cells = F.interpolate(cells, size=tuple(grid), mode="bilinear", align_corners=False)
    return torch.cat([table[:, :1], cells.flatten(2).transpose(1, 2)], 1)


class OfficialDpt(nn.Module):
    """The paper's model on a narrow ViT of timm, with the tensor names of the release."""

    def __init__(self, hybrid, segments):
        import timm

        super().__init__()
        self.hybrid, self.segments, wide = hybrid, segments, 128
        self.pretrained, self.scratch = nn.Module(), nn.Module()
        self.pretrained.model = timm.create_model(
            "vit_base_r50_s16_384" if hybrid else "vit_base_patch16_384",
            pretrained=False,
            embed_dim=wide,
            depth=6,
            num_heads=4,
            img_size=SIDE,
            num_classes=10,
        )
        self.blocks = (4, 5) if hybrid else (1, 2, 4, 5)
        channels = (256, 512, wide, wide) if hybrid else (32, 48, 96, 128)
        resample = [
            nn.ConvTranspose2d(channels[0], channels[0], 4, 4),
            nn.ConvTranspose2d(channels[1], channels[1], 2, 2),
            nn.Identity(),
            nn.Conv2d(channels[3], channels[3], 3, 2, 1),
        ]
        for i, c in enumerate(channels):
            if i > 1 or not hybrid:
                parts = [Readout(wide), nn.Identity(), nn.Identity(), nn.Conv2d(wide, c, 1), resample[i]]
                setattr(self.pretrained, f"act_postprocess{i + 1}", nn.Sequential(*parts))
            setattr(self.scratch, f"layer{i + 1}_rn", nn.Conv2d(c, WIDTH, 3, padding=1, bias=False))
            setattr(self.scratch, f"refinenet{i + 1}", Fusion(segments))
        if segments:
            self.scratch.output_conv, self.auxlayer = self.classifier(), self.classifier()
        else:
            half = WIDTH // 2
            first, second = nn.Conv2d(WIDTH, half, 3, padding=1), nn.Conv2d(half, 32, 3, padding=1)
            double = nn.UpsamplingBilinear2d(scale_factor=2)
            last = nn.Conv2d(32, 1, 1)
            self.scratch.output_conv = nn.Sequential(first, double, second, nn.ReLU(), last, nn.ReLU(), nn.Identity())

    @staticmethod
    def classifier():
        convolution = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(WIDTH, K, 1))

    def forward(self, x):
        """The output, and that of the auxiliary layer."""
        vit, size = self.pretrained.model, x.shape[2:]
        grid, maps = (size[0] // 16, size[1] // 16), []
        patches = vit.patch_embed
        if self.hybrid:
            x = patches.backbone.stem(x)
            for stage in patches.backbone.stages:
                x = stage(x)
                maps.append(x)
            maps.pop()
        x = patches.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + positions_on(vit.pos_embed, grid)
        for i, block in enumerate(vit.blocks):
            x = block(x)
            if i in self.blocks:
                process = getattr(self.pretrained, f"act_postprocess{len(maps) + 1}")
                maps.append(process[3:](process[0](x).unflatten(2, grid)))
        maps = [getattr(self.scratch, f"layer{i + 1}_rn")(x) for i, x in enumerate(maps)]
        paths = [self.scratch.refinenet4(maps[3])]
        for i in (2, 1, 0):
            paths.append(getattr(self.scratch, f"refinenet{i + 1}")(paths[-1], maps[i]))
        out = self.scratch.output_conv(paths[-1])
        return (doubled(out), self.auxlayer(paths[-2])) if self.segments else (out, None)


@pytest.fixture
def official(randomise, standardized_by_std):
    """`official(hybrid, segments)`: such a model; a hybrid's convolutions are as in timm 0.4.5."""

    def official(hybrid, segments):
        torch.manual_seed(0)
        reference = randomise(OfficialDpt(hybrid, segments))
        for name, weight in reference.named_parameters():
            if name.endswith(
                "norm3.weight"
            ):  # residual branches as small as trained ones; otherwise rounding errors grow
                weight.data *= 0.2
            elif ".backbone." in name and "conv" in name:  # filters of small variance, so that epsilon matters
                weight.data *= 10 ** torch.empty(len(weight), 1, 1, 1).uniform_(-3, 0)
        if hybrid:
            standardized_by_std(reference)
        return reference

    return official


def batch_of(sizes):
    torch.manual_seed(1)
    H, W = (max(size[axis] for size in sizes) for axis in (0, 1))
    images, padding = torch.zeros(len(sizes), 3, H, W, dtype=torch.uint8), torch.ones(len(sizes), H, W).bool()
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w] = torch.randint(256, (3, h, w))
        padding[i, :h, :w] = False
    targets = [{"size": size, "original_size": size} for size in sizes]
    return {"images": images, "padding_mask": padding, "targets": targets}


def pixels_of(batch):
    """Pixels are normalised as in the authors' code; padding is 0."""
    return ((batch["images"] / 255 - 0.5) / 0.5).masked_fill(batch["padding_mask"][:, None], 0.0)


def kinds(names):
    return {re.sub(r"\d+", "#", name) for name in names}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("hybrid", [False, True], ids=["large style", "hybrid"])
def test_depth_matches_the_reference_model(hybrid, sizes, official, whole, released):
    reference = official(hybrid, segments=False)
    reference.scratch.output_conv[4].weight.data *= 1000  # as large as theirs
    state = reference.state_dict()
    name = "dpt-hybrid" if hybrid else "dpt"
    assert kinds(state) == kinds(released("dpt_hybrid-midas" if hybrid else "dpt_large-midas"))
    assert recognise(state).name == name
    model, batch = whole(state, find(name), WITHOUT_EFFECT), batch_of(sizes)
    size = batch["images"].shape[2:]
    with torch.no_grad():
        expected = reference(pixels_of(batch))[0]
        outputs = model(batch)["depth"]
        found = model.heads["depth"].maps(outputs, size)
        assert expected.std() > 10 and 0.2 < (expected > 0).float().mean() <= 1
        torch.testing.assert_close(found, expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-4)
        predicted = model.predictions({"depth": outputs}, batch["targets"])["depth"]
        for one, map_, (h, w) in zip(predicted, found, sizes, strict=True):
            assert torch.equal(one["inverse_depth"], map_[0, :h, :w])
        if hybrid:
            for metric, scale, shift in (("nyu", 0.000305, 0.1378), ("kitti", 0.00006016, 0.00579)):
                model = whole(state, find(f"dpt-hybrid-{metric}"), WITHOUT_EFFECT)
                depth = model.predictions(model(batch), batch["targets"])["depth"][0]["depth"]
                h, w = sizes[0]
                metres = 1 / (scale * expected + shift).clamp(min=1e-8)
                torch.testing.assert_close(depth, metres[0, 0, :h, :w], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("hybrid", [False, True], ids=["large style", "hybrid"])
def test_segmentation_matches_the_reference_model(hybrid, sizes, official, whole, released):
    reference = official(hybrid, segments=True)
    state = reference.state_dict()
    name = "dpt-hybrid-segmentation" if hybrid else "dpt-segmentation"
    assert kinds(state) == kinds(released("dpt_hybrid-ade20k" if hybrid else "dpt_large-ade20k"))
    assert recognise(state).name == name
    model, batch = whole(state, find(name), WITHOUT_EFFECT), batch_of(sizes)
    size = batch["images"].shape[2:]
    head = model.heads["segmentation"]
    with torch.no_grad():
        expected, beside = reference(pixels_of(batch))
        found = head.maps(model(batch)["segmentation"], size)
        features = model.backbone(model.normalise(batch["images"], batch["padding_mask"]))
        auxiliary = head.auxiliary(head.decode(features, size)[-2])
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(auxiliary, beside, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("segments", [False, True], ids=["depth", "segmentation"])
def test_hybrid_uses_the_weight_standardization_of_its_training(segments, official, whole):
    """timm 0.4.5 divides weights by std + 1e-5. With sqrt(variance + 1e-8), as in current timm, outputs differ."""
    from timm.layers import StdConv2dSame

    reference, batch = official(True, segments), batch_of([(64, 64)])
    state = reference.state_dict()
    task, name = ("segmentation", "dpt-hybrid-segmentation") if segments else ("depth", "dpt-hybrid")
    found = {}
    for arithmetic in ("std", "variance"):
        other = {} if arithmetic == "std" else {"weight_standardization": arithmetic}
        model = whole(state, find(name), WITHOUT_EFFECT, **other)
        with torch.no_grad():
            found[arithmetic] = model.heads[task].maps(model(batch)[task], (64, 64))
    with torch.no_grad():
        expected = {"std": reference(pixels_of(batch))[0]}
        for module in reference.modules():
            if isinstance(module, StdConv2dSame):
                module.__class__ = StdConv2dSame
                assert module.eps == 1e-8
        expected["variance"] = reference(pixels_of(batch))[0]
    span = expected["std"].max() - expected["std"].min()
    for arithmetic in expected:
        assert ((found[arithmetic] - expected[arithmetic]).abs().max() / span) < 1e-4
    assert ((found["variance"] - expected["std"]).abs().max() / span) > 0.01


@pytest.mark.parametrize("segments", [False, True], ids=["depth", "segmentation"])
def test_round_trip_preserves_tensors(segments, official):
    state = official(True, segments).state_dict()
    layout = find("dpt-hybrid-segmentation" if segments else "dpt-hybrid")
    ours = translate(state, layout).tensors
    back, unknown = translate_back(ours, layout)
    assert unknown == [] and back.keys() == {key for key in state if not re.match(WITHOUT_EFFECT, key)}
    changed = {key for key in back if not torch.equal(back[key], state[key])}
    assert changed == {
        "pretrained.model.cls_token",
        "pretrained.model.pos_embed",
    }  # our class token includes its position
    again = translate(back, layout).tensors
    assert again.keys() == ours.keys() and all(torch.equal(again[key], x) for key, x in ours.items())


def test_classes_are_known_by_number_and_name():
    ade, city = preset_classes("ade20k"), preset_classes("cityscapes")
    assert (len(ade), ade[0].name, ade[0].file_id, len(city), city[0].name, city[0].file_id) == (
        *(150, "wall", 1),
        *(19, "road", 7),
    )
    names = [f"{one.name}, another word " for one in ade]
    names[7] = "berth"
    assert segmentation_classes(150) == segmentation_classes(150, names) == ade
    own = segmentation_classes(150, [f"tile {i}" for i in range(150)])
    assert (own[3].name, own[3].file_id, own[3].thing) == ("tile 3", 3, False)
    assert [one.name for one in segmentation_classes(3)] == ["class 0", "class 1", "class 2"]
    assert [one.name for one in segmentation_classes(2, ["cat ", "dog"])] == ["cat", "dog"]
    assert math.prod(len({one.color for one in group}) for group in (own, city)) == 150 * 19
