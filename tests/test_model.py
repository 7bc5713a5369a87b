import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import densevit
from densevit import config as configs
from densevit.interfaces import Backbone, Class, Head, Neck
from densevit.model import DenseModel, build_model
from densevit_backbones.resnet import ResNet
from densevit_backbones.swin import Swin

CLASSES = (Class("cat", 17, (255, 0, 0)), Class("dog", 18, (0, 255, 0)))


class Pixels(Backbone):
    """A backbone that averages images over 8x8 pixels."""

    channels, strides = (3,), (8,)
    mean, std = (0.5, 0.25, 0.0), (0.5, 0.25, 2.0)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [nn.functional.avg_pool2d(images, 8) * self.scale]


class Doubling(Neck):
    """A neck that returns the coarsest feature twice."""

    def __init__(self, channels, strides, offset: float = 0.0) -> None:
        super().__init__(2 * tuple(channels[-1:]), 2 * tuple(strides[-1:]))
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return 2 * [features[-1] + self.offset]


class Mean(Head):
    """A head that predicts the mean of the coarsest feature over an image, and records its targets."""

    task = "detection"
    needs = ("labels",)

    def __init__(self, channels, strides, classes, gain: float = 1.0) -> None:
        super().__init__(channels, strides, classes)
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.gain = nn.Parameter(torch.tensor(gain))
        self.dropout = nn.Dropout(0.5)

    def forward(self, features, padding_mask, targets=None):
        self.seen_targets = targets
        mean = self.dropout(self.gain * features[-1].mean((2, 3)))
        return {"logits": mean, "grid": torch.tensor(padding_mask.shape[1:])}

    def loss(self, outputs, targets):
        return {"mean": outputs["logits"].mean(), "constant": self.gain * len(targets)}

    def predict(self, outputs, targets):
        return [
            {
                "scores": scores,
                "grid": outputs["grid"],
                "size": torch.tensor(t["size"]),
                "original_size": torch.tensor(t["original_size"]),
                "image_id": t["image_id"],
            }
            for scores, t in zip(outputs["logits"], targets, strict=True)
        ]


class Broken(Mean):
    """A head that raises."""

    def predict(self, outputs, targets):
        raise RuntimeError("out of order")


def config_of(**sections):
    here = __name__
    return configs.from_mapping(
        {
            "backbone": {"name": f"{here}:Pixels"},
            "heads": {"detection": {"name": f"{here}:Mean"}},
            "data": {"name": "scenes", "image_size": 64},
            "trainer": {"max_steps": 1},
            **sections,
        }
    )


def model_of(backbone: Backbone, **heads: type[Head]) -> DenseModel:
    features = (backbone.channels, backbone.strides)
    return DenseModel(backbone, {name: head(*features, CLASSES) for name, head in heads.items()})


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


def batch_of(*sizes: tuple[int, int]) -> dict:
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for own, (h, w) in zip(mask, sizes, strict=True):
        own[:h, :w] = False
    images = torch.randint(0, 256, (len(sizes), 3, height, width), dtype=torch.uint8)
    targets = [{"size": size, "original_size": size, "image_id": i} for i, size in enumerate(sizes)]
    return {"images": images, "padding_mask": mask, "targets": targets}


# ---- normalisation ----


def test_pixels_are_normalised_by_the_backbone_s_mean_and_std():
    model = model_of(Pixels(), detection=Mean)
    images = torch.tensor([255, 51, 0], dtype=torch.uint8)[None, :, None, None]
    pixels = model.normalise(images, torch.zeros(1, 1, 1, dtype=torch.bool))
    # (1 - 0.5) / 0.5, (0.2 - 0.25) / 0.25, (0 - 0) / 2
    torch.testing.assert_close(pixels.flatten(), torch.tensor([1.0, -0.2, 0.0]))


def test_padding_is_exactly_zero_after_normalisation():
    model = model_of(Pixels(), detection=Mean)
    batch = batch_of((3, 5), (4, 2))
    images = batch["images"].clone()
    pixels = model.normalise(images, batch["padding_mask"])
    padding = batch["padding_mask"][:, None].expand_as(pixels)
    assert pixels[padding].eq(0).all()
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in ([0.5, 0.25, 0.0], [0.5, 0.25, 2.0]))
    expected = (images / 255 - mean) / std
    torch.testing.assert_close(pixels[~padding], expected[~padding])
    assert torch.equal(images, batch["images"])


# ---- heads, losses, modes ----


def test_losses_are_named_by_head_and_weighted():
    model = model_of(Pixels(), a=Mean, b=Mean)
    model.weights["b"] = 0.25
    outputs = {"a": {"logits": torch.full((2, 3), 4.0)}, "b": {"logits": torch.full((2, 3), 8.0)}}
    losses = model.loss(outputs, [{}, {}])
    assert {name: value.item() for name, value in losses.items()} == {
        "a/mean": 4.0,
        "a/constant": 2.0,
        "b/mean": 2.0,
        "b/constant": 0.5,
    }


def test_learned_weight_is_the_inverse_variance_with_log_term():
    model = DenseModel(
        Pixels(), {"a": Mean((3,), (8,), CLASSES), "b": Mean((3,), (8,), CLASSES)}, weights={"b": "learned"}
    )
    nn.init.constant_(model.log_variances["b"], math.log(4))
    outputs = {name: {"logits": torch.full((2, 3), 8.0)} for name in "ab"}
    losses = model.loss(outputs, [{"labels": torch.zeros(0)}, {}])
    assert losses["a/mean"] == 8 and "a/log_variance" not in losses
    torch.testing.assert_close(losses["b/mean"], torch.tensor(2.0))
    torch.testing.assert_close(losses["b/log_variance"], torch.tensor(math.log(2)))
    sum(losses.values()).backward()  # of 10 exp(-s) + s / 2 with s = log 4: -10 / 4 + 1 / 2
    torch.testing.assert_close(model.log_variances["b"].grad, torch.tensor(-2.0))


def test_learned_weight_has_no_gradient_without_labels():
    model = DenseModel(Pixels(), {"a": Mean((3,), (8,), CLASSES)}, weights={"a": "learned"})
    losses = model.loss({"a": {"logits": torch.zeros(1, 3)}}, [{"depth": torch.zeros(2, 2)}])
    losses["a/log_variance"].backward()
    assert losses["a/log_variance"] == 0 and model.log_variances["a"].grad == 0


def test_targets_are_passed_to_heads_in_training_only():
    model = model_of(Pixels(), detection=Mean)
    batch = batch_of((8, 8))
    model.train()(batch)
    assert model.heads["detection"].seen_targets is batch["targets"]
    model.eval()(batch)
    assert model.heads["detection"].seen_targets is None


def test_frozen_modules_stay_in_eval_mode():
    model = model_of(ResNet(18), kept=Mean, learned=Mean)
    model.backbone.requires_grad_(False)
    model.heads["kept"].requires_grad_(False)
    model.train()
    assert not any(module.training for part in (model.backbone, model.heads["kept"]) for module in part.modules())
    assert all(module.training for module in model.heads["learned"].modules())
    assert not any(module.training for module in model.eval().modules())
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    model.train()(batch_of((40, 40), (33, 20)))
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())


# ---- predict ----


SIZES = [(40, 70), (64, 64), (33, 20), (40, 70), (10, 96), (61, 59), (40, 71)]


@pytest.mark.parametrize(("name", "options"), [("resnet", {"depth": 18}), ("swin", {"variant": "nano"})])
def test_predictions_do_not_depend_on_order_batch_size_or_neighbours(name, options):
    model = model_of(densevit.create_backbone(name, **options), detection=Mean).eval()
    images = [random_image(*size) for size in SIZES]
    together = [found["scores"] for found in model.predict(images)]
    one_by_one = [model.predict([p])[0]["scores"] for p in images]
    by_two = [found["scores"] for found in model.predict(images, batch_size=2)]
    backwards = [found["scores"] for found in model.predict(images[::-1])][::-1]
    assert torch.stack(together).std(dim=0).mean() > 1e-3
    for others in (one_by_one, by_two, backwards):
        for x, y in zip(together, others, strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_images_of_equal_padded_size_share_batches():
    model = model_of(Pixels(), detection=Mean)
    sizes: list[int] = []
    model.backbone.register_forward_hook(lambda module, given, out: sizes.append(len(given[0])))
    found = model.predict(
        [random_image(8, 8), random_image(16, 8), random_image(5, 7), random_image(8, 1), random_image(9, 2)],
        batch_size=2,
    )
    assert sizes == [2, 2, 1]  # 8x8 and 5x7; 16x8 and 9x2; 8x1
    assert [f["image_id"] for f in found] == [0, 1, 2, 3, 4]
    assert [f["grid"].tolist() for f in found] == [[8, 8], [16, 8], [8, 8], [8, 8], [16, 8]]


def test_results_of_several_heads_are_keyed_by_name():
    found = model_of(Pixels(), a=Mean, b=Mean).predict([random_image(8, 8)])
    assert found[0].keys() == {"a", "b"}
    assert torch.equal(found[0]["a"]["scores"], found[0]["b"]["scores"])


@pytest.mark.parametrize("training", [True, False])
def test_predict_restores_the_training_mode(training):
    model = model_of(Pixels(), detection=Mean).train(training)
    first = model.predict([random_image(8, 8)])[0]["scores"]
    assert torch.equal(first, model.predict([random_image(8, 8)])[0]["scores"])  # without dropout
    assert all(module.training == training for module in model.modules())
    assert not first.requires_grad


def test_predict_restores_the_training_mode_after_an_error():
    model = model_of(Pixels(), detection=Broken).train()
    with pytest.raises(RuntimeError, match="out of order"):
        model.predict([random_image(8, 8)])
    assert model.training


def test_model_trains_after_predict():
    model = model_of(Swin("nano"), detection=Mean)
    model.predict([random_image(100, 90)])
    batch = batch_of((96, 64), (70, 64))
    sum(model.train().loss(model(batch), batch["targets"]).values()).backward()
    assert model.backbone.patch_embed.weight.grad.abs().sum() > 0


def test_paths_images_and_arrays_give_equal_results(tmp_path: Path):
    pixels = random_image(20, 30)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    opened = Image.open(tmp_path / "image.png")
    model = model_of(Pixels(), detection=Mean)
    given = [tmp_path / "image.png", str(tmp_path / "image.png"), opened, pixels, pixels[:, ::-1][:, ::-1]]
    found = model.predict(given)
    assert all(torch.equal(f["scores"], found[0]["scores"]) for f in found)
    assert all(f["original_size"].tolist() == [20, 30] for f in found)
    total = (pixels.reshape(-1, 3) / 255 - [0.5, 0.25, 0]).sum(0) / [0.5, 0.25, 2]
    expected = total / (24 * 32)  # including the padding, as 0
    np.testing.assert_allclose(found[0]["scores"].numpy(), expected, atol=1e-5)


def test_grey_images_are_repeated_over_channels(tmp_path: Path):
    grey = random_image(16, 24)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    found = model_of(Pixels(), detection=Mean).predict(
        [grey, np.repeat(grey[..., None], 3, axis=2), Image.fromarray(grey), tmp_path / "grey.png"]
    )
    assert all(torch.equal(f["scores"], found[0]["scores"]) for f in found)


@pytest.mark.filterwarnings("error")
def test_read_only_arrays_are_accepted_without_a_warning():
    pixels = random_image(8, 8)
    pixels.flags.writeable = False
    model_of(Pixels(), detection=Mean).predict([pixels])


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (random_image(8, 8) / 255, r"\(8, 8, 3\) of float64"),
        (random_image(8, 8).transpose(2, 0, 1), r"\(3, 8, 8\) of uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\) of uint8"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\) of uint8"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"\(1, 3, 8, 8\) of uint8"),
        (None, "of object"),
    ],
)
def test_invalid_array_error_describes_it(wrong, found):
    with pytest.raises(densevit.DataError, match=r"\(H, W, 3\) or \(H, W\) of uint8 in RGB; found .*" + found):
        model_of(Pixels(), detection=Mean).predict([wrong])


def test_missing_file_error_names_the_file():
    with pytest.raises(densevit.DataError, match="nowhere.png"):
        model_of(Pixels(), detection=Mean).predict(["nowhere.png"])


@pytest.mark.parametrize(
    "single", ["a.png", Path("a.png"), random_image(8, 8), Image.fromarray(random_image(8, 8))], ids=type
)
def test_single_image_outside_a_list_raises(single):
    with pytest.raises(densevit.DataError, match=r"predict\(\[image\]\)"):
        model_of(Pixels(), detection=Mean).predict(single)


def test_empty_list_gives_no_results():
    assert model_of(Pixels(), detection=Mean).predict([]) == []


def test_model_with_a_config_resizes_by_its_data_section():
    model = build_model(config_of(data={"name": "scenes", "image_size": 32}), {"detection": CLASSES})
    found = model.predict([random_image(40, 80)])[0]
    assert found["size"].tolist() == [16, 32]
    assert found["original_size"].tolist() == [40, 80]


# ---- building ----


def test_build_model_follows_the_config():
    doubling = f"{__name__}:Doubling"
    config = config_of(
        backbone={"name": "resnet", "depth": 18, "norm": "group", "freeze": True},
        heads={
            "plain": {"name": f"{__name__}:Mean", "gain": 3.0, "weight": 0.5},
            "kept": {"name": f"{__name__}:Mean", "freeze": True, "neck": {"name": doubling, "offset": 2.0}},
        },
    )
    model = build_model(config, {"detection": CLASSES, "segmentation": CLASSES[:1]})
    plain, kept, neck = model.heads["plain"], model.heads["kept"], model.necks["kept"]
    assert isinstance(model.backbone, ResNet)
    assert (plain.gain.item(), kept.gain.item(), neck.offset.item()) == (3.0, 1.0, 2.0)
    assert (plain.channels, plain.strides) == ((64, 128, 256, 512), (4, 8, 16, 32))
    assert (kept.channels, kept.strides) == ((512, 512), (32, 32))
    assert model.weights == {"plain": 0.5, "kept": 1.0}
    assert model.classes == {"plain": CLASSES, "kept": CLASSES}
    assert model.config is config
    assert model.multiple == 32
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["heads.plain.gain"]
    assert model.training
    assert not any(part.training for part in (model.backbone, kept, neck))  # frozen initially


def test_neck_is_applied_to_its_own_head_only():
    mean, doubling = f"{__name__}:Mean", {"name": f"{__name__}:Doubling"}
    heads = {"a": {"name": mean, "neck": doubling}, "b": {"name": mean}}
    model = build_model(config_of(heads=heads), {"detection": CLASSES}).eval()
    with torch.no_grad():
        model.necks["a"].offset.fill_(5.0)
    outputs = model(batch_of((16, 16)))
    torch.testing.assert_close(outputs["a"]["logits"], outputs["b"]["logits"] + 5)


def test_classes_of_another_task_are_not_passed_to_a_head():
    assert build_model(config_of(), {"segmentation": CLASSES}).classes == {"detection": ()}


def test_unknown_option_error_names_key_and_nearest():
    heads = {"detection": {"name": f"{__name__}:Mean", "gian": 2.0}}
    with pytest.raises(densevit.DensevitError, match=r"heads\.detection\.gian.*'gain'"):
        build_model(config_of(heads=heads), {"detection": CLASSES})


class Silent(Backbone):
    """A backbone without channels."""


class Uneven(Backbone):
    """A backbone of two channels and one stride."""

    channels, strides = (8, 16), (4,)


@pytest.mark.parametrize(("name", "message"), [("Silent", "no 'channels'"), ("Uneven", "2 channels and 1 strides")])
def test_backbone_without_channels_or_strides_raises(name, message):
    with pytest.raises(densevit.ConfigError, match=message):
        densevit.create_backbone(f"{__name__}:{name}")


def test_create_head_uses_the_given_features():
    head = densevit.create_head(f"{__name__}:Mean", [8, 16], [4, 8], CLASSES, gain=2.0)
    assert (head.channels, head.strides, head.classes, head.gain.item()) == ((8, 16), (4, 8), CLASSES, 2.0)
