"""facebookresearch/detr's checkpoints: its model built from torch's and torchvision's modules, and released names."""

import math
from itertools import chain, pairwise

import pytest
import torch
from torch import nn

from densevit.data.datasets.coco_json import color_of
from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.label_sets import coco_classes
from densevit.weights.layouts import recognise
from densevit_heads.detr.checkpoints import DETR

pytestmark = pytest.mark.integration

UNUSED = [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]  # of COCO's 91 ids, the ones without a class
USED = [i for i in range(91) if i not in UNUSED]
SIZES = [(96, 130), (70, 111), (125, 64)]
THIRDS = "in_proj_"


class Mlp(nn.Module):
    def __init__(self, *sizes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class Layer(nn.Module):
    """An encoder layer has two norms, a decoder layer three."""

    def __init__(self, width, hidden, pre_norm, decodes):
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = nn.MultiheadAttention(width, 8, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(width, 8, batch_first=True) if decodes else None
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        if decodes:
            self.norm3 = nn.LayerNorm(width)

    def forward(self, x, places, memory=None, memory_places=None, padding=None):
        def add(x, norm, branch):
            return x + branch(norm(x)) if self.pre_norm else norm(x + branch(x))

        own_padding = padding if memory is None else None
        x = add(x, self.norm1, lambda y: self.self_attn(y + places, y + places, y, key_padding_mask=own_padding)[0])
        if memory is not None:
            keys = memory + memory_places
            x = add(x, self.norm2, lambda y: self.multihead_attn(y + places, keys, memory, key_padding_mask=padding)[0])
        return add(x, self.norm2 if memory is None else self.norm3, lambda y: self.linear2(self.linear1(y).relu()))


class Stack(nn.Module):
    def __init__(self, layers, norm):
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm


class Body(nn.Module):
    def __init__(self, name, dilation):
        import torchvision
        from torchvision.models._utils import IntermediateLayerGetter
        from torchvision.ops import FrozenBatchNorm2d

        super().__init__()
        dilations = [False, False, dilation]
        resnet = getattr(torchvision.models, name)(norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=dilations)
        self.channels = resnet.fc.in_features
        self.body = IntermediateLayerGetter(resnet, {"layer4": "0"})


class Tables(nn.Module):
    """Learned positions."""

    def __init__(self, channels):
        super().__init__()
        self.row_embed, self.col_embed = nn.Embedding(50, channels), nn.Embedding(50, channels)


class OfficialDetr(nn.Module):
    """The paper's model, with the tensor names of the release."""

    def __init__(self, body, width, hidden, queries, rows, layers=6, dilation=False, pre_norm=False, positions="sine"):
        super().__init__()
        backbone = Body(body, dilation)
        self.backbone = nn.ModuleList([backbone, Tables(width // 2) if positions == "learned" else nn.Identity()])
        self.input_proj = nn.Conv2d(backbone.channels, width, 1)
        self.transformer = nn.Module()
        self.transformer.encoder = Stack(
            [Layer(width, hidden, pre_norm, False) for _ in range(layers)], nn.LayerNorm(width) if pre_norm else None
        )
        self.transformer.decoder = Stack(
            [Layer(width, hidden, pre_norm, True) for _ in range(layers)], nn.LayerNorm(width)
        )
        self.query_embed = nn.Embedding(queries, width)
        self.class_embed = nn.Linear(width, rows)
        self.bbox_embed = Mlp(width, width, width, 4)

    def forward(self, pixels, padding):
        x = self.input_proj(self.backbone[0].body(pixels)["0"])
        width, size = x.shape[1], x.shape[2:]
        padding = nn.functional.interpolate(padding[None].float(), size=size).bool()[0]
        places = self.places(padding, width).flatten(1, 2)
        padding = padding.flatten(1)
        memory = x.flatten(2).transpose(1, 2)
        for layer in self.transformer.encoder.layers:
            memory = layer(memory, places, padding=padding)
        if self.transformer.encoder.norm is not None:
            memory = self.transformer.encoder.norm(memory)
        query_places = self.query_embed.weight.expand(len(x), -1, -1)
        queries = torch.zeros_like(query_places)
        for layer in self.transformer.decoder.layers:
            queries = layer(queries, query_places, memory, places, padding)
        queries = self.transformer.decoder.norm(queries)
        return self.class_embed(queries), self.bbox_embed(queries).sigmoid()

    def places(self, padding, width):
        _, height, length = padding.shape
        if isinstance(self.backbone[1], Tables):
            rows, columns = self.backbone[1].row_embed.weight[:height], self.backbone[1].col_embed.weight[:length]
            columns, rows = columns[None].expand(height, -1, -1), rows[:, None].expand(-1, length, -1)
            return torch.cat([columns, rows], -1).expand(len(padding), -1, -1, -1)
        channel = torch.arange(width // 2)
        frequency = 10000 ** (-2 * (channel // 2) / len(channel))
        halves = []
        for axis in (1, 2):
            count = (~padding).cumsum(axis).float()
            share = count / (count.select(axis, -1).unsqueeze(axis) + 1e-6)
            angle = 2 * math.pi * share[..., None] * frequency
            halves.append(torch.where(channel % 2 == 0, angle.sin(), angle.cos()))
        return torch.cat(halves, -1)


def randomise(model):
    """Randomises all tensors so that errors become visible."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif "query_embed" in name:
                tensor.normal_(0, 4)  # queries differ, and attend to different places
            elif "in_proj_weight" in name or "bbox_embed.layers.2" in name:
                tensor.normal_(0, 1.5 * tensor[0].numel() ** -0.5)
            elif tensor.ndim == 1:
                tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)
            else:
                tensor.normal_(0, tensor[0].numel() ** -0.5)
    return model.eval()


def official(body="resnet18", queries=7, rows=92, **options):
    torch.manual_seed(3)
    return randomise(OfficialDetr(body, 32, 48, queries, rows, layers=2, **options))


def outputs_of(model, batch):
    """The model with inputs to its transformer that differ between cells; otherwise all queries would be equal."""
    x = model.input_proj(model.backbone[0].body(pixels_of(batch))["0"])
    mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3))
    model.input_proj.weight.div_(std[:, None, None, None])
    model.input_proj.bias.sub_(mean).div_(std)
    return model


def pixels_of(batch):
    """Input of the official code: 0 ... 1, normalised by ImageNet's mean and std, then padded with 0."""
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((batch["images"] / 255 - mean) / std).masked_fill(batch["padding_mask"][:, None], 0)


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ("resnet18", {}),
        ("resnet18", {"pre_norm": True, "positions": "learned"}),
        ("resnet50", {"dilation": True}),
    ],
    ids=["paper", "pre-norm, learned positions", "DC5"],
)
@torch.no_grad()
def test_logits_and_boxes_match_the_official_model(body, options, whole, padded_batch):
    batch = padded_batch(SIZES)
    theirs = outputs_of(official(body, **options), batch)
    ours = whole(theirs.state_dict(), DETR, thirds=THIRDS, dilation=options.get("dilation", False))
    outputs = ours(batch)["detection"]
    logits, boxes = theirs(pixels_of(batch), batch["padding_mask"])
    assert logits.std(1).mean() > 0.1
    assert boxes.std(1).mean() > 0.02
    torch.testing.assert_close(outputs["logits"], logits[..., [*USED, 91]], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["boxes"], boxes, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_predictions_have_coco_s_names_and_file_ids(whole, padded_batch):
    from torchvision.models._meta import _COCO_CATEGORIES as NAMES_BY_ID

    batch = padded_batch(SIZES)
    theirs = outputs_of(official(queries=40), batch)
    theirs.class_embed.bias[UNUSED] = -100.0  # as after training
    theirs.class_embed.bias[91] -= 5
    ours = whole(theirs.state_dict(), DETR, thirds=THIRDS)
    predictions = ours.infer(batch)["detection"]
    logits, _ = theirs(pixels_of(batch), batch["padding_mask"])
    scores, ids = logits.softmax(-1)[..., :-1].max(-1)  # one id of 0 ... 90 per query: the official post-processing
    assert len(ids.unique()) > 5
    for prediction, own_scores, own_ids in zip(predictions, scores, ids, strict=True):
        own_scores, order = own_scores.sort(descending=True, stable=True)
        torch.testing.assert_close(prediction["scores"], own_scores, rtol=1e-4, atol=1e-5)
        classes = [ours.classes["detection"][label] for label in prediction["labels"].tolist()]
        assert [one.file_id for one in classes] == own_ids[order].tolist()
        assert [one.name for one in classes] == [NAMES_BY_ID[i] for i in own_ids[order].tolist()]


def test_classes_match_coco_s_files():
    from torchvision.models._meta import _COCO_CATEGORIES as NAMES_BY_ID

    classes = coco_classes()
    assert [i for i, name in enumerate(NAMES_BY_ID) if name not in ("__background__", "N/A")] == USED
    assert [(one.name, one.file_id) for one in classes] == [(NAMES_BY_ID[i], i) for i in USED]
    assert [one.color for one in classes] == [color_of(i) for i in range(80)]
    assert all(one.thing for one in classes)


def test_each_tensor_of_the_released_r50_is_used_once(whole, released):
    with torch.device("meta"):
        state = released("detr_r50")
    frozen = ("running_mean", "running_var", "backbone.0.body.conv1.", "backbone.0.body.layer1.")
    norms = (".bn", ".downsample.1.", ".body.bn1.")
    trained = [t for n, t in state.items() if not any(p in n for p in frozen + (norms if "body" in n else ()))]
    assert sum(tensor.numel() for tensor in trained) == 41302368  # "number of params" in its training log

    model = whole(state, DETR, thirds=THIRDS)
    unused = len(UNUSED) * (256 + 1)
    count = sum(tensor.numel() for tensor in state.values())
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == count - unused
    assert set(chain(*translate(state, DETR).origins.values())) == set(state)
    assert describe(state, DETR) == {
        "backbone": {"name": "resnet", "depth": 50, "dilation": False, "norm": "frozen", "frozen_stages": 2},
        "heads": {
            "detection": {
                "name": "detr",
                "num_queries": 100,
                "transformer": {
                    "width": 256,
                    "num_heads": 8,
                    "encoder_layers": 6,
                    "decoder_layers": 6,
                    "feedforward": 2048,
                },
                "positions": "sine",
                "pre_norm": False,
            }
        },
    }


def test_each_tensor_of_an_r101_is_used_once(whole, released):
    with torch.device("meta"):
        small, large = (OfficialDetr(f"resnet{depth}", 256, 2048, 100, 92) for depth in (50, 101))
        listed = released("detr_r50")
    assert {name: x.shape for name, x in small.state_dict().items()} == {name: x.shape for name, x in listed.items()}
    model = whole(large.state_dict(), DETR, thirds=THIRDS)
    assert model.architecture.backbone.options["depth"] == 101


@torch.no_grad()
def test_round_trip_preserves_tensors(whole, padded_batch):
    batch = padded_batch(SIZES)
    theirs = outputs_of(official(), batch)
    before = theirs.state_dict()
    back, unknown = translate_back(translate(before, DETR).tensors, DETR)
    assert unknown == []
    assert set(back) == set(before)
    for name, tensor in before.items():
        rows = [*USED, 91] if name.startswith("class_embed") else slice(None)
        assert torch.equal(back[name][rows], tensor[rows]), name
    # The unused rows are restored without effect: probabilities are those of our 80 classes.
    ours = whole(before, DETR, thirds=THIRDS)(batch)["detection"]["logits"].softmax(-1)
    theirs.load_state_dict(back)
    found = theirs(pixels_of(batch), batch["padding_mask"])[0].softmax(-1)
    assert found[..., UNUSED].max() == 0
    torch.testing.assert_close(found[..., [*USED, 91]], ours, rtol=1e-4, atol=1e-5)


def test_custom_classes_keep_their_rows(whole):
    state = official(rows=6).state_dict()
    classes = DETR.classes(state, {})["detection"]
    assert [(one.name, one.file_id) for one in classes] == [(f"class {i}", i) for i in range(5)]
    whole(state, DETR, thirds=THIRDS)
    back, _ = translate_back(translate(state, DETR).tensors, DETR)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_checkpoint_is_recognised(released):
    assert recognise(released("detr_r50")) is DETR


def test_panoptic_tensors_are_unknown():
    state = {**official().state_dict(), "mask_head.lay1.weight": torch.zeros(8, 8, 3, 3)}
    assert translate(state, DETR).unknown == ["mask_head.lay1.weight"]


def test_incomplete_checkpoint_raises(released):
    state = {name: tensor for name, tensor in released("detr_r50").items() if "query_embed" not in name}
    with pytest.raises(WeightsError, match="no tensor for 'heads.detection.query_embedding.weight'"):
        describe(state, DETR)
