"""mmsegmentation's SETR: the released lists of names, and reference models with these names.

For an image of another size mmsegmentation resizes positions bilinearly; the reference here uses our interpolation.
"""

import re

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from densevit.errors import WeightsError
from densevit.weights.checkpoint_io import read
from densevit.weights.foreign_checkpoint import translated_for
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.label_sets import preset_classes
from densevit.weights.layouts import find, recognise
from densevit.weights.pretrained import fit_backbone
from densevit.weights.weights_table import weights_table
from densevit_workbench.interchange.foreign_export import export
from densevit_workbench.interchange.foreign_weights import convert, write

pytestmark = pytest.mark.integration

K, C, WIDTH, BRANCH, SIDE = 5, 128, 24, 16, 64
SIZES = {"square": [(64, 64)], "padded": [(48, 96), (37, 81)]}


def layout_name(decoder: str) -> str:
    return "mmseg-setr" if decoder == "pup" else f"mmseg-setr-{decoder}"


WITHOUT_EFFECT = {"mmseg-setr-naive-ade20k": r"auxiliary_head\.", "mmseg-setr-mla": r"backbone\.cls_token"}


UPSAMPLED, LEVELS = (10, 15, 20, 24), (6, 12, 18, 24)
RELEASES = {
    "setr_naive_ade20k": (
        "naive-ade20k",
        512,
        {"features": UPSAMPLED},
        {"decoder": "naive", "auxiliary": [], "padded": "stretch"},
    ),
    "setr_naive_cityscapes": (
        "naive",
        768,
        {"features": UPSAMPLED},
        {"decoder": "naive", "auxiliary": [1, 2, 3], "padded": "stretch"},
    ),
    "setr_pup_ade20k": (
        "pup",
        512,
        {"features": UPSAMPLED},
        {"decoder": "pup", "auxiliary": [1, 2, 3], "padded": "stretch"},
    ),
    "setr_mla_ade20k": (
        "mla",
        512,
        {"features": LEVELS, "class_token": False},
        {"decoder": "mla", "auxiliary": [1, 2, 3, 4], "branch_width": 128, "padded": "stretch"},
    ),
}


@pytest.mark.parametrize(("name", "expected"), RELEASES.items(), ids=RELEASES)
def test_each_tensor_of_a_release_is_used_once_or_listed(name, expected, whole, released):
    layout, image_size, backbone, head = expected
    with torch.device("meta"):
        state, layout = released(name), find(layout_name(layout))
    assert recognise(state) is layout
    assert describe(state, layout) == {
        "backbone": {"name": "vit", "variant": "large", "patch_size": 16, "image_size": image_size}
        | {"feature_norm": False, "position_resizing": "bilinear"}
        | backbone,
        "heads": {"segmentation": {"name": "setr", "width": 256} | head},
    }
    model = whole(state, layout, WITHOUT_EFFECT.get(layout.name, "(?!)"))
    idle = translate(state, layout).left_out
    if layout.name == "mmseg-setr-naive-ade20k":
        assert layout.missing.keys() == {"heads.segmentation.auxiliary.*"}  # alternative config values
    known = preset_classes("cityscapes" if "cityscapes" in name else "ade20k")
    assert model.heads["segmentation"].classes == known
    given = sum(x.numel() for key, x in state.items() if key not in idle)
    assert given - sum(x.numel() for x in model.state_dict().values()) == 1024  # the class token's position


class ConvModule(nn.Module):
    def __init__(self, inputs, outputs, kernel):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(C, 4, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x)[0]


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1, self.ln2, self.attn = nn.LayerNorm(C, 1e-6), nn.LayerNorm(C, 1e-6), Attention()
        self.ffn = nn.Module()
        self.ffn.layers = nn.Sequential(nn.Sequential(nn.Linear(C, 4 * C), nn.GELU()), nn.Linear(4 * C, C))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.ffn.layers(self.ln2(x))


class VisionTransformer(nn.Module):
    def __init__(self, with_token, patch_bias):
        super().__init__()
        self.with_token = with_token
        self.cls_token = nn.Parameter(torch.zeros(1, 1, C))
        self.pos_embed = nn.Parameter(torch.zeros(1, (SIDE // 16) ** 2 + 1, C))
        self.patch_embed = nn.Module()
        self.patch_embed.projection = nn.Conv2d(3, C, 16, 16, bias=patch_bias)
        self.layers = nn.ModuleList(Layer() for _ in range(6))

    def forward(self, x):
        x = self.patch_embed.projection(x)
        grid, side = x.shape[2:], SIDE // 16
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        cells = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        cells = F.interpolate(cells, size=tuple(grid), mode="bilinear", align_corners=False)[0].flatten(1).T
        x = x + torch.cat([self.pos_embed[0, :1], cells])
        x = x if self.with_token else x[:, 1:]
        maps = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in (1, 2, 4, 5):
                cells = x[:, 1:] if self.with_token else x
                maps.append(cells.transpose(1, 2).unflatten(2, grid))
        return maps


def normed(norm, x):
    return norm(x.movedim(1, 3)).movedim(3, 1)


class UpHead(nn.Module):
    def __init__(self, convolutions, factor, kernel):
        super().__init__()
        self.factor, self.norm = factor, nn.LayerNorm(C, 1e-6)
        inputs = (C, *[WIDTH] * (convolutions - 1))
        self.up_convs = nn.ModuleList(nn.Sequential(ConvModule(c, WIDTH, kernel)) for c in inputs)
        self.conv_seg = nn.Conv2d(WIDTH, K, 1)

    def forward(self, x):
        x = normed(self.norm, x)
        for stage in self.up_convs:
            x = F.interpolate(stage(x), scale_factor=self.factor, mode="bilinear", align_corners=False)
        return self.conv_seg(x)


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.mla = nn.ModuleList(nn.LayerNorm(C, 1e-6) for _ in range(4)), nn.Module()
        self.mla.channel_proj = nn.ModuleList(ConvModule(C, WIDTH, 1) for _ in range(4))
        self.mla.feat_extract = nn.ModuleList(ConvModule(WIDTH, WIDTH, 3) for _ in range(4))

    def forward(self, maps):
        levels = zip(self.mla.channel_proj, self.norm, maps, strict=True)
        sums = []
        for x in [project(normed(norm, x)) for project, norm, x in levels][::-1]:
            sums.append(sums[-1] + x if sums else x)
        return [extract(x) for extract, x in zip(self.mla.feat_extract, sums, strict=True)]


class LevelsHead(nn.Module):
    def __init__(self):
        super().__init__()
        branch = [nn.Sequential(ConvModule(WIDTH, BRANCH, 3), ConvModule(BRANCH, BRANCH, 3)) for _ in range(4)]
        self.up_convs, self.conv_seg = nn.ModuleList(branch), nn.Conv2d(4 * BRANCH, K, 1)

    def forward(self, maps):
        branches = [branch(x) for branch, x in zip(self.up_convs, maps, strict=True)]
        branches = [F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False) for x in branches]
        return self.conv_seg(torch.cat(branches, 1))


class Fcn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_seg = nn.Conv2d(WIDTH, K, 1)

    def forward(self, x):
        return self.conv_seg(x)


class Official(nn.Module):
    """A narrow version of a published model, with the tensor names of the release."""

    def __init__(self, decoder, beside=2, patch_bias=True):
        super().__init__()
        self.backbone = VisionTransformer(decoder != "mla", patch_bias)
        if decoder == "mla":
            self.neck, self.decode_head = Neck(), LevelsHead()
            self.auxiliary_head = nn.ModuleList(Fcn() for _ in range(4))
        else:
            self.decode_head = UpHead(1, 4, 1) if decoder == "naive" else UpHead(4, 2, 3)
            kernel = 1 if decoder == "naive" else 3
            self.auxiliary_head = nn.ModuleList(UpHead(beside, 4, kernel) for _ in range(3))

    def forward(self, x):
        maps = self.backbone(x)
        if hasattr(self, "neck"):
            maps = self.neck(maps)
            main = self.decode_head(maps)
        else:
            main = self.decode_head(maps[3])
        return main, [head(x) for head, x in zip(self.auxiliary_head, maps, strict=False)]


MODELS = {
    "naive": ("naive", 1, "setr_naive_cityscapes"),
    "naive-ade20k": ("naive", 2, "setr_naive_ade20k"),
    "pup": ("pup", 2, "setr_pup_ade20k"),
    "mla": ("mla", 0, "setr_mla_ade20k"),
}


def kinds(names):
    return {re.sub(r"\d+", "#", name) for name in names}


@pytest.fixture(params=MODELS)
def pair(request, randomise, released):
    """The layout, and a model of mmsegmentation."""
    torch.manual_seed(0)
    decoder, beside, release = MODELS[request.param]
    reference = randomise(Official(decoder, beside))
    assert kinds(reference.state_dict()) == kinds(released(release))
    return find(layout_name(request.param)), reference


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_model_matches_the_reference_model(pair, sizes, whole):
    layout, reference = pair
    state = reference.state_dict()
    assert recognise(state) is layout
    model = whole(state, layout, WITHOUT_EFFECT.get(layout.name, "(?!)"))
    head = model.heads["segmentation"]
    torch.manual_seed(1)
    H, W = (max(size[axis] for size in sizes) for axis in (0, 1))
    images, padding = torch.zeros(len(sizes), 3, H, W, dtype=torch.uint8), torch.ones(len(sizes), H, W).bool()
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w] = torch.randint(256, (3, h, w))
        padding[i, :h, :w] = False
    batch = {"images": images, "padding_mask": padding, "targets": [{"size": s, "original_size": s} for s in sizes]}
    mean, std = (torch.tensor(x)[:, None, None] for x in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    pixels = ((images - mean) / std).masked_fill(padding[:, None], 0.0)
    with torch.no_grad():
        logits, beside = reference(pixels)
        expected = F.interpolate(logits, size=(H, W), mode="bilinear", align_corners=False)
        outputs = model(batch)
        found = head.maps(outputs["segmentation"], (H, W))
        assert expected.std() > 0.1
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        predictions = model.predictions(outputs, batch["targets"])["segmentation"]
        for i, size in enumerate(sizes):  # mmsegmentation resizes the logits of whole patches to the image
            expected = F.interpolate(logits[i : i + 1], size=size, mode="bilinear", align_corners=False)
            own = head.maps({"logits": outputs["segmentation"]["logits"][i : i + 1]}, size)
            torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-4)
            assert torch.equal(predictions[i]["semantic"], own[0].argmax(0).to(torch.uint8))
        head.padded = "crop"
        cropped = head.maps(outputs["segmentation"], sizes[-1])
        assert torch.equal(cropped, found[..., : sizes[-1][0], : sizes[-1][1]])
        assert (sizes[-1] == (H, W)) == torch.allclose(cropped[-1:], own, atol=1e-4, rtol=1e-4)
        maps = model.backbone(model.normalise(images, padding))
        if layout.name == "mmseg-setr-mla":
            maps, beside = head.decode(maps)[1], beside[::-1]  # starting with the first map
        own = [classify(x) for classify, x in zip(head.auxiliary, maps, strict=False)]
    assert len(own) == (0 if layout.name == "mmseg-setr-naive-ade20k" else len(beside))
    for x, y in zip(own, beside, strict=False):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


def test_round_trip_preserves_tensors(pair):
    layout, reference = pair
    state = reference.state_dict()
    done = translate(state, layout)
    back, unknown = translate_back(done.tensors, layout)
    assert unknown == [] and back.keys() == state.keys() - done.left_out.keys()
    changed = {key for key in back if not torch.equal(back[key], state[key])}
    token = set() if layout.name == "mmseg-setr-mla" else {"backbone.cls_token"}  # includes its position here
    assert changed == {"backbone.pos_embed"} | token
    again = translate(back, layout).tensors
    assert again.keys() == done.tensors.keys() and all(torch.equal(again[key], x) for key, x in done.tensors.items())


# ---- mmsegmentation 1.2, whose patch embedding has no bias ----

BIAS = "backbone.patch_embed.projection.bias"


def shown(fit):
    console = Console(width=200)
    with console.capture() as message:
        console.print(weights_table(fit))
    return " ".join(message.get().split())


@pytest.mark.parametrize("kind", MODELS)
def test_missing_patch_bias_is_zero_and_reported(kind, randomise, tmp_path):
    torch.manual_seed(0)
    decoder, beside, _ = MODELS[kind]
    reference = randomise(Official(decoder, beside, patch_bias=False))
    state = reference.state_dict()
    assert BIAS not in state
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "setr.pth")
    layout = find(layout_name(kind))
    assert recognise(state) is layout
    converted = convert(tmp_path / "setr.pth", layout.name)
    assert converted.fit.missing == [] and not converted.backbone.stem.projection.bias.any()
    why = "mmsegmentation 1.x has no bias in its patch embedding unless patch_bias=True"
    assert f"zeros 1 backbone.stem.projection.bias: {why}" in shown(converted.fit)
    left_out = len(translate(state, layout).left_out)
    assert f"loaded {len(state) - left_out} " in shown(converted.fit)  # one of theirs, one of ours
    alone = fit_backbone(converted.model, translated_for(read(tmp_path / "setr.pth"), converted.model), ())
    assert f"zeros 1 stem.projection.bias: {why}" in shown(alone)
    images = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    padding = torch.zeros(1, 64, 64, dtype=torch.bool)
    with torch.no_grad():
        pixels = converted.model.normalise(images, padding)
        expected = F.interpolate(reference(pixels)[0], size=(64, 64), mode="bilinear", align_corners=False)
        outputs = converted.model({"images": images, "padding_mask": padding, "targets": []})
        found = converted.model.heads["segmentation"].maps(outputs["segmentation"], (64, 64))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)

    write(converted, tmp_path / "run")
    back = export(tmp_path / "run", layout.name)
    assert back.tensors.keys() == state.keys() - translate(state, layout).left_out.keys()  # theirs loads it completely
    assert f"backbone.stem.projection.bias is all zeros and is not written: {why}." in back.notes


def test_nonzero_bias_is_written_and_reported(randomise, tmp_path):
    state = randomise(Official("naive", 1)).state_dict()
    torch.save(state, tmp_path / "setr.pth")
    write(convert(tmp_path / "setr.pth"), tmp_path / "run")
    back = export(tmp_path / "run", "mmseg-setr-naive")
    assert torch.equal(back.tensors[BIAS], state[BIAS])
    assert any("bias is written: mmsegmentation 1.x has no bias" in note for note in back.notes)


@pytest.mark.parametrize("lacking", ["backbone.patch_embed.projection.weight", "backbone.layers.3.ln1.bias"])
def test_other_missing_tensors_raise(lacking, randomise, tmp_path):
    state = randomise(Official("naive", 1, patch_bias=False)).state_dict()
    del state[lacking]
    torch.save(state, tmp_path / "setr.pth")
    with pytest.raises(WeightsError, match=r"missing|is incomplete"):
        convert(tmp_path / "setr.pth")
