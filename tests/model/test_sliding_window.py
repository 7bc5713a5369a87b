"""Windows, flips and scales against loops over complete maps, memory use, and the options of each head."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from densevit import config as configs
from densevit.data.loading.batch_sampler import collate
from densevit.errors import ConfigError
from densevit.inference.predictor import Predictor
from densevit.interfaces import Backbone, Class, DenseHead, Head
from densevit.model import DenseModel, Inference, inference_by_head, sliding_window, streaming_resize
from densevit.model.sliding_window import starts


class Stem(Backbone):
    """A padded convolution: its features in windows differ from those in the whole image."""

    channels, strides = (6,), (4,)

    def __init__(self, kernel: int = 9) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, kernel, 4, padding=(kernel - 1) // 2)

    def forward(self, images):
        x = F.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
        return [self.layer(x)[..., : x.shape[2] // 4, : x.shape[3] // 4].relu()]


class Pixels(Backbone):
    """Returns the pixels."""

    channels, strides = (3,), (1,)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return [images * self.scale]


class Segmenter(DenseHead):
    """A 1x1 convolution; counts the images of each run."""

    task, needs = "segmentation", ("semantic",)

    def __init__(self, channels, strides, classes, factor: float = 3.0) -> None:
        super().__init__(channels, strides, classes)
        self.out, self.stride, self.factor = nn.Conv2d(channels[0], max(1, len(classes)), 1), strides[0], factor
        self.runs: list[tuple[int, ...]] = []

    def forward(self, features, padding_mask, targets=None):
        self.runs.append(tuple(padding_mask.shape))
        self.inside = (~padding_mask).float().mean((1, 2))
        return {"logits": self.factor * self.out(features[0])}

    def maps(self, outputs, size):
        x = outputs["logits"].float()
        x = F.interpolate(x, scale_factor=self.stride, mode="bilinear") if self.stride > 1 else x
        return x[..., : size[0], : size[1]]

    def read_maps(self, maps):
        return {"semantic": maps.argmax(1).to(torch.uint8)}

    def predict(self, outputs, targets):
        found = []
        for i, target in enumerate(targets):
            x = self.maps({"logits": outputs["logits"][i : i + 1]}, target["size"])
            x = F.interpolate(x, target["original_size"], mode="bilinear")
            found.append({key: value[0] for key, value in self.read_maps(x).items()})
        return found


class Depth(Segmenter):
    """The maps themselves."""

    task, needs = "depth", ("depth",)

    def read_maps(self, maps):
        return {"depth": maps[:, 0]}


class Boxes(Head):
    """A head without maps: its box is the sum of the first feature."""

    task, needs = "detection", ("boxes",)

    def forward(self, features, padding_mask, targets=None):
        return {"boxes": features[0].sum((1, 2, 3))}

    def predict(self, outputs, targets):
        return [{"boxes": box.repeat(1, 4)} for box in outputs["boxes"]]


def numbered(count):
    return tuple(Class(str(i), i, (0, 0, 0)) for i in range(count))


def model_of(backbone, *heads, classes=5):
    kinds = {
        head.task: head(backbone.channels, backbone.strides, () if head is Depth else numbered(classes))
        for head in heads
    }
    return DenseModel(backbone, kinds).eval()


def batch_of(model, *sizes, original=None):
    """Smooth images of these sizes, padded to one multiple."""
    samples = []
    for i, (h, w) in enumerate(sizes):
        noise = torch.rand(1, 3, h // 4 + 2, w // 4 + 2, generator=torch.Generator().manual_seed(i))
        image = (255 * F.interpolate(noise, (h, w), mode="bilinear")[0]).to(torch.uint8)
        targets = {"image_id": i, "size": (h, w), "original_size": original or (h, w)}
        samples.append({"image": image, "targets": targets})
    return collate(samples, model.multiple)


def maps_of(model, image):
    """Maps of a single image or window, (C, h, w), padded to its own next multiple."""
    batch = collate([{"image": image, "targets": {"size": tuple(image.shape[1:])}}], model.multiple)
    head = next(iter(model.heads.values()))
    return head.maps(model(batch)[head.task], tuple(image.shape[1:]))[0]


def slide_whole(image, maps, window, stride):
    """The sum and the count of all windows, over the whole image; the layout follows mmsegmentation's loop."""
    h, w = image.shape[1:]
    (wh, ww), (sh, sw) = window, stride
    total, count = 0, torch.zeros(h, w)
    for i in range(max(h - wh + sh - 1, 0) // sh + 1):
        for j in range(max(w - ww + sw - 1, 0) // sw + 1):
            bottom, right = min(i * sh + wh, h), min(j * sw + ww, w)
            top, left = max(bottom - wh, 0), max(right - ww, 0)
            found = maps(image[:, top:bottom, left:right])
            total = total + F.pad(found, (left, w - right, top, h - bottom))
            count[top:bottom, left:right] += 1
    assert (count > 0).all()
    return total / count


def infer(model, batch, section):
    """Predictions with these options for every head that makes maps."""
    return model.infer(batch, inference_by_head(model, section))


@torch.no_grad()
def depth_of(model, batch, **section):
    return [found["depth"] for found in infer(model, batch, Inference(**section))["depth"]]


@pytest.mark.parametrize(
    ("size", "window", "stride", "original", "batch_size"),
    [
        ((61, 83), (32, 32), (21, 21), None, 1),  # overlapping, odd
        ((70, 90), (32, 24), (32, 24), (97, 41), 4),  # adjacent, except for the last
        ((50, 30), (24, 48), (16, 32), (33, 120), 100),  # wider than the image
        ((20, 30), (48, 48), (32, 32), (301, 7), 1),  # larger than the image
        ((40, 47), (21, 30), (14, 7), None, 4),  # windows not divisible by the stride
    ],
)
def test_sliding_matches_a_loop_over_windows(size, window, stride, original, batch_size):
    model = model_of(Stem(), Depth)
    batch = batch_of(model, size, original=original)
    image = batch["images"][0, :, : size[0], : size[1]]
    with torch.no_grad():
        expected = slide_whole(image, lambda x: maps_of(model, x), window, stride)
    expected = F.interpolate(expected[None], original or size, mode="bilinear")[0, 0]
    (whole,), (found,) = (
        depth_of(model, batch, **section) for section in ({}, dict(window=window, stride=stride, batch_size=batch_size))
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert ((whole - found).abs().max() > 1e-2) == (window != (48, 48))  # windows differ from the whole image


@pytest.mark.parametrize("numbers", [1, 2**23])
def test_strips_of_any_height_are_resized_like_the_whole(monkeypatch, numbers):
    monkeypatch.setattr(streaming_resize, "MAX_STRIP_NUMEL", numbers)
    for source, target in [
        ((13, 7), (29, 7)), ((29, 6), (13, 11)), ((5, 5), (64, 3)), ((64, 4), (1, 1)), ((1, 1), (9, 2)),
        ((31, 8), (32, 8)), ((40, 3), (39, 3)), ((17, 4), (17, 9)), ((100, 2), (7, 2)),
    ]:  # fmt: skip
        x = torch.randn(2, *source)
        expected = F.interpolate(x[None], target, mode="bilinear", align_corners=False)[0]
        for height in (1, 3, 10, 100):
            parts = [part.clone() for part in streaming_resize.resized(iter(x.split(height, 1)), source, target)]
            assert max(part.shape[1] for part in parts) <= max(1, numbers // (2 * max(source[1], target[1])))
            torch.testing.assert_close(torch.cat(parts, 1), expected)


def test_strips_of_different_heights_are_averaged():
    maps = [torch.randn(2, 23, 4) for _ in range(3)]
    for lockstep in (True, False):
        streams = [iter(x.split(height, 1)) for x, height in zip(maps, (1, 7, 23), strict=True)]
        found = torch.cat([part.clone() for part in streaming_resize.averaged(streams, 23, lockstep)], 1)
        torch.testing.assert_close(found, sum(maps) / 3)


def test_windows_start_at_multiples_of_the_stride_and_end_at_the_border():
    assert starts(10, 4, 3) == [0, 3, 6]
    assert starts(11, 4, 3) == [0, 3, 6, 7]
    assert starts(12, 4, 4) == [0, 4, 8]
    assert starts(4, 4, 1) == [0] == starts(3, 4, 2)


# ---- flips and scales ----


@pytest.mark.parametrize("section", [{}, {"window": 24, "stride": 10}])
def test_flip_averages_with_the_mirrored_prediction(section):
    model = model_of(Stem(), Depth)
    batch = batch_of(model, (41, 54), (43, 53))
    found = depth_of(model, batch, flip=True, **section)
    for own, image, target in zip(found, batch["images"], batch["targets"], strict=True):
        image = image[:, : target["size"][0], : target["size"][1]]
        mirrored = {"image": image.flip(-1), "targets": target}
        (straight,) = depth_of(model, collate([{"image": image, "targets": target}], 4), **section)
        (other,) = depth_of(model, collate([mirrored], 4), **section)
        torch.testing.assert_close(own, (straight + other.flip(-1)) / 2, rtol=1e-5, atol=1e-5)
        assert (own - straight).abs().max() > 1e-2


@pytest.mark.parametrize(("section", "flip"), [({}, False), ({"window": 30, "stride": 11}, True)])
def test_scales_are_averaged_at_the_image_size(section, flip):
    model = model_of(Stem(), Depth)
    batch = batch_of(model, (45, 58), original=(80, 101))
    (found,) = depth_of(model, batch, scales=(0.5, 1.0, 1.3), flip=flip, **section)
    image, expected = batch["images"][0, :, :45, :58], 0
    for size in ((22, 29), (45, 58), (58, 75)):  # 22.5 rounds to even; 58.5 and 75.4
        seen = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0].round().to(torch.uint8)
        target = {"size": size, "original_size": size}
        (maps,) = depth_of(model, collate([{"image": seen, "targets": target}], 4), flip=flip, **section)
        expected = expected + F.interpolate(maps[None, None], (45, 58), mode="bilinear") / 3
    expected = F.interpolate(expected, (80, 101), mode="bilinear")[0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class Metres(Depth):
    """Eight metres divided by the zoom, as in training; the zoom is derived from the number of pixels of each image."""

    quantity, usual = "depth", 45 * 58

    def maps(self, outputs, size):
        inside = self.inside * math.prod(outputs["logits"].shape[2:])  # pixels of each image
        return (8 * (self.usual / inside).sqrt())[:, None, None, None].expand(-1, 1, *size)


@pytest.mark.parametrize(("scales", "flip"), [((0.5, 1.0, 2.0), False), ((0.75, 1.0, 1.3), True)], ids=str)
def test_depth_of_each_scale_is_converted_to_zoom_1(scales, flip):
    """8 m become 16 m at half the size and 4 m at twice the size; their mean would be 9.33 m."""
    model = model_of(Pixels(), Metres)
    batch = batch_of(model, (45, 58), original=(80, 101))
    (found,) = depth_of(model, batch, scales=scales, flip=flip)
    torch.testing.assert_close(found, torch.full((80, 101), 8.0))


def test_zoom_does_not_change_other_maps():
    """Classes besides metric depth, and relative depth of unknown scale."""
    torch.manual_seed(0)
    both = model_of(Pixels(), Segmenter, Metres)
    alone = DenseModel(both.backbone, {"segmentation": both.heads["segmentation"]}).eval()
    batch = batch_of(both, (45, 58))
    section = Inference(scales=(0.5, 1.0, 2.0))
    found, expected = infer(both, batch, section), infer(alone, batch, section)
    assert torch.equal(found["segmentation"][0]["semantic"], expected["segmentation"][0]["semantic"])
    assert len(expected["segmentation"][0]["semantic"].unique()) > 1
    torch.testing.assert_close(found["depth"][0]["depth"], torch.full((45, 58), 8.0))

    relative = model_of(Pixels(), Metres)
    relative.heads["depth"].quantity = "inverse_depth"
    (mean,) = depth_of(relative, batch, scales=(0.5, 1.0, 2.0))
    exact = 8 * (2 * (45 * 58 / (4 * 22 * 29)) ** 0.5 + 1 + 1 / 2) / 3  # 22.5 rounds to even
    torch.testing.assert_close(mean, torch.full((45, 58), exact))


def test_class_probabilities_and_depths_are_averaged():
    model = model_of(Stem(), Segmenter, Depth)
    segmentation, depth = model.heads.values()
    segmentation.factor = 30.0
    batch = batch_of(model, (61, 83), original=(90, 120))
    image = batch["images"][0, :, :61, :83]

    def maps(x, head, softmax=False):
        padded = collate([{"image": x, "targets": {}}], 4)
        found = head.maps(model(padded)[head.task], tuple(x.shape[1:]))[0]
        return found.softmax(0) if softmax else found

    def expected(*kind):
        with torch.no_grad():
            mean = slide_whole(image, lambda x: maps(x, *kind), (32, 32), (12, 12))
        return F.interpolate(mean[None], (90, 120), mode="bilinear")[0]

    labels = {}
    for average in ("logits", "probabilities"):
        section = Inference(window=32, stride=12, average=average)
        found = {name: own[0] for name, own in infer(model, batch, section).items()}
        classes, metres = expected(segmentation, average == "probabilities"), expected(depth)
        assert (found["segmentation"]["semantic"] != classes.argmax(0)).float().mean() < 1e-3
        torch.testing.assert_close(found["depth"]["depth"], metres[0], rtol=1e-5, atol=1e-5)
        labels[average] = found["segmentation"]["semantic"]
    assert (labels["logits"] != labels["probabilities"]).any()


# ---- model.predict ----


def test_windows_run_in_batches_over_rows_and_flips_with_a_mask_of_padding():
    model = model_of(Stem(), Depth)
    depth_of(model, batch_of(model, (50, 70)), window=(20, 30), stride=(15, 20), flip=True, batch_size=5)
    assert model.heads["depth"].runs == [(5, 20, 32)] * 3 + [(3, 20, 32)]  # 3 rows of 3 windows, twice
    depth_of(model, batch_of(model, (41, 54)), window=100)  # padded only to the image's next multiple
    assert model.heads["depth"].runs[4:] == [(1, 44, 56)]
    assert model.heads["depth"].inside.item() == pytest.approx(41 * 54 / (44 * 56))


def test_predict_uses_the_config_section_and_overrides():
    model = model_of(Stem(), Depth)
    here = {"backbone": {"name": "x"}, "heads": {"depth": {"name": "y"}}, "data": {"name": "scenes"}}
    config = configs.from_mapping({**here, "trainer": {"max_steps": 1}, "inference": {"window": 24}})
    predictor = Predictor(model, config)
    pixels = np.random.default_rng(0).integers(0, 256, (41, 54, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    batch = collate([{"image": image, "targets": {"size": (41, 54), "original_size": (41, 54)}}], 4)
    for given, section in (
        (None, {"window": 24}),
        ({"stride": 24}, {"window": 24, "stride": 24}),
        ({"window": None}, {}),
        ({"window": None, "flip": True}, {"flip": True}),
    ):
        found = predictor.predict([pixels, pixels[:20]], inference=given)
        assert torch.equal(found[0]["depth"], depth_of(model, batch, **section)[0])
        assert found[1]["depth"].shape == (20, 54)
    with pytest.raises(ConfigError, match=r"^predict: inference\.windw .*'window'"):
        predictor.predict([pixels], inference={"windw": 3})


def test_runs_under_autocast_inference_mode_and_other_default_dtypes():
    model = model_of(Stem(), Segmenter, Depth)
    batch = batch_of(model, (41, 54), original=(50, 90))
    section = Inference(window=24, flip=True, scales=(1.0, 1.5), average="probabilities")
    expected = infer(model, batch, section)["depth"][0]["depth"]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = infer(model, batch, section)["depth"][0]["depth"]
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(infer(model, batch, section)["depth"][0]["depth"], expected)
    finally:
        torch.set_default_dtype(torch.float32)


# ---- memory ----


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operation returned."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        found = [x.untyped_storage().nbytes() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.bytes = max(self.bytes, *found, 0)
        return result


@pytest.mark.integration
@pytest.mark.parametrize("section", [{"flip": True}, {"scales": (1.0, 0.5)}])
def test_memory_depends_on_the_window_not_the_image(monkeypatch, section):
    """Like 8,000 x 6,000 pixels with windows of 512, scaled by a thirtieth: no tensor is larger than a strip."""
    monkeypatch.setattr(streaming_resize, "MAX_STRIP_NUMEL", 2**16)
    model = model_of(Pixels(), Segmenter, classes=50)
    batch = batch_of(model, (600, 200), original=(900, 300))
    with Largest() as largest:
        (found,) = infer(model, batch, Inference(window=32, **section))["segmentation"]
    assert found["semantic"].shape == (900, 300)
    assert largest.bytes <= 4 * 50 * 32 * 200


# ---- errors ----


def config_with(section):
    values = {"backbone": {"name": "swin"}, "heads": {"a": {"name": "setr"}}, "data": {"name": "scenes"}}
    return configs.from_mapping({**values, "trainer": {"max_steps": 1}, "inference": section}, "mine.yaml")


@pytest.mark.parametrize(
    ("section", "facts"),
    [
        ({"stride": 100}, ["inference.stride", "100", "Set inference.window"]),
        ({"window": 512, "stride": 600}, ["inference.stride: 600", "inference.window, 512"]),
        ({"window": [512, 300], "stride": 400}, ["inference.stride: 400", "inference.window, [512, 300]"]),
        ({"window": 0}, ["inference.window", "greater than or equal to 1", "not 0"]),
        ({"window": [1, 2, 3]}, ["inference.window", "[height, width]"]),
        ({"window": 8, "stride": 0}, ["inference.stride", "greater than or equal to 1", "not 0"]),
        ({"scales": [1.0, 0]}, ["inference.scales.1", "greater than 0", "not 0"]),
        ({"scales": []}, ["inference.scales"]),
        ({"average": "votes"}, ["inference.average", "'logits' or 'probabilities'", "'votes'"]),
        ({"batch_size": 0}, ["inference.batch_size"]),
        ({"flips": True}, ["inference.flips", "'flip'"]),
    ],
)
def test_invalid_section_error_names_the_key(section, facts):
    with pytest.raises(ConfigError, match="^mine.yaml: " + ".*".join(map(re.escape, facts))):
        config_with(section)


def test_the_stride_is_two_thirds_of_the_window_by_default():
    assert [config_with({"window": side}).inference.options.strides for side in (512, 768, [1, 5])] == [
        (341, 341),
        (512, 512),
        (1, 3),
    ]
    options = config_with({"window": "5e2", "scales": ["1", 1.5]}).inference.options
    assert (options.window_sides, options.scales, options.single_pass) == ((500, 500), (1.0, 1.5), False)
    assert configs.from_mapping(
        configs.yaml_io.parse(configs.dump(config_with({"window": [4, 5]})), "")
    ) == config_with({"window": [4, 5]})
    assert configs.InferenceSection().options == Inference()
    given = {"window": (32, 48), "stride": 16, "average": "probabilities", "flip": True, "scales": (0.5,)}
    assert configs.InferenceSection(**given, batch_size=2).options == Inference(**given, batch_size=2)


def test_a_model_without_maps_is_refused_by_its_heads():
    model = model_of(Stem(), Boxes)
    asked = {"window=64": {"window": 64}, "flip=true": {"flip": True}, r"scales=\[0.5, 1.0\]": {"scales": (0.5, 1.0)}}
    for said, section in asked.items():
        with pytest.raises(ConfigError, match=rf"^inference\.{said} .*detection \(Boxes\) .*not a DenseHead"):
            Predictor(model).predict([], inference=section)
    with pytest.raises(ConfigError, match=r"^heads\.detection\.inference: .*\(Boxes\) .*leave it"):
        inference_by_head(model_of(Stem(), Segmenter, Boxes), Inference(), {"detection": Inference()})
    assert inference_by_head(model, Inference()) == {}


@torch.no_grad()
def test_each_head_has_its_own_options():
    model = model_of(Stem(), Segmenter, Boxes, Depth)
    batch = batch_of(model, (41, 54))
    general, own = Inference(window=24), {"depth": Inference(flip=True)}
    sections = inference_by_head(model, general, own)
    assert sections == {"segmentation": general, "depth": own["depth"]}
    found = model.infer(batch, sections)
    for name, key, section in (("segmentation", "semantic", general), ("depth", "depth", own["depth"])):
        alone = DenseModel(model.backbone, {name: model.heads[name]}).eval()
        assert torch.equal(found[name][0][key], infer(alone, batch, section)[name][0][key])
    assert torch.equal(found["detection"][0]["boxes"], model.infer(batch)["detection"][0]["boxes"])


def test_predictor_and_validation_take_each_head_s_section_of_the_config():
    from densevit.training.loop.dense_module import DenseModule

    model = model_of(Stem(), Segmenter, Boxes, Depth)
    heads = {name: {"name": name} for name in model.heads} | {"depth": {"name": "x", "inference": {"flip": True}}}
    values = {"backbone": {"name": "x"}, "heads": heads, "data": {"name": "scenes"}, "trainer": {"max_steps": 1}}
    config = configs.from_mapping({**values, "inference": {"window": 24}})
    expected = {"segmentation": Inference(window=24), "depth": Inference(flip=True)}
    predictor = Predictor(model, config)
    assert predictor.inference == DenseModule(predictor).inference == expected
    others = Predictor(model, config).with_inference({"average": "probabilities"}).inference
    assert others["segmentation"] == Inference(window=24, average="probabilities")
    assert others["depth"] == Inference(flip=True, average="probabilities")
    assert configs.from_mapping(configs.yaml_io.parse(configs.dump(config), "")) == config
    heads["depth"]["inference"] = {"windw": 3}
    with pytest.raises(ConfigError, match=r"heads\.depth\.inference\.windw .*Did you mean"):
        configs.from_mapping(values)


class OneSize(Pixels):
    """A backbone of fixed input size."""

    input_size = (24, 32)

    def forward(self, images):
        assert tuple(images.shape[2:]) == self.input_size
        return super().forward(images)


def test_fixed_size_backbone_requires_windows_of_that_size():
    model = model_of(OneSize(), Depth)
    for wrong in ({"window": 24}, {"scales": (0.5,)}):
        with pytest.raises(ConfigError, match=r"takes images of 24x32 only. Fix: set inference.window=\[24,32\]"):
            inference_by_head(model, Inference(**wrong))
    for size in ((50, 60), (20, 40), (11, 12)):
        batch = batch_of(model, size)
        for section in ({"window": (24, 32)}, {"window": (24, 32), "scales": (0.5, 1.0)}):
            inference_by_head(model, Inference(**section))
            assert depth_of(model, batch, **section)[0].shape == size
    batch = collate([{"image": torch.zeros(3, 24, 32, dtype=torch.uint8), "targets": {}}])
    batch["targets"] = [{"size": (20, 32), "original_size": (40, 64)}]
    assert depth_of(model, batch, flip=True)[0].shape == (40, 64)
    assert sliding_window.starts(1, 24, 16) == [0]
