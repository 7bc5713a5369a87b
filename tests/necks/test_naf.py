"""NAF beside its authors' code, without padding's effect, in chunks of little memory; bilinear beside it; its training
method; and what a model does with a neck that needs the images."""

import pytest
import torch
from torch.nn import functional as F

import densevit
from densevit.errors import ConfigError, PluginError
from densevit.interfaces import LossContext
from densevit.training.loop.feature_cache import FeatureCache
from densevit_necks import neighbourhood_attention as attention
from densevit_necks.naf import NAF
from tests.methods.pretraining import batch_of
from tests.methods.test_feature_distillation import Patches

# Of the authors' code (valeoai/NAF, its NATTEN replaced by brute force), for `waves` and `weighted` below: three
# neighbours at the top left, in the middle and at the bottom right.
AUTHORS = {
    (9, 11): [[0.190719, 0.176457, 0.211849], [0.069423, 0.003883, -0.030237], [0.014286, 0.010853, -0.006705]],
    (10, 9): [[-0.009947, 0.052405, 0.078732], [-0.020195, -0.030791, -0.063717], [0.025788, 0.038284, 0.05587]],
}


def weighted(neck: NAF) -> NAF:
    """Weights and biases of which each has an effect."""
    for i, p in enumerate(neck.parameters()):
        values = (torch.arange(p.numel()) * 0.7 + i).sin().view(p.shape)
        p.data = values + 0.5 if p.ndim == 1 else 1.5 * values * p[0].numel() ** -0.5
    return neck.eval()


def waves(*shape: int, phase: float) -> torch.Tensor:
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return ((x * 1.3 + phase).sin() + (x * 0.37).cos()).float().view(shape)


@torch.no_grad()
def test_outputs_are_the_authors_also_of_images_with_padding_and_of_part_of_a_cell():
    neck = weighted(NAF((8,), (16,), width=32))
    images, features = torch.randn(2, 3, 200, 192), torch.randn(2, 8, 13, 12)
    mask = torch.ones(2, 200, 192, dtype=torch.bool)
    for i, (h, w) in enumerate(AUTHORS):
        images[i, :, : h * 16, : w * 16] = waves(3, h * 16, w * 16, phase=i)
        features[i, :, :h, :w] = waves(8, h, w, phase=i)
        mask[i, : h * 16 - 5 * i, : w * 16 - 9] = False
    [padded] = neck([torch.empty(0), features], mask, images)
    assert neck.strides == (4,) and padded.shape == (2, 8, 52, 48)
    for x, ((h, w), expected) in zip(padded, AUTHORS.items(), strict=True):
        values = torch.stack([x[0, 0, :3], x[3, 17, 20:23], x[7, h * 4 - 1, w * 4 - 3 : w * 4]])
        torch.testing.assert_close(values, torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.integration
def test_an_exported_neck_reads_the_padding():
    neck, mask = weighted(NAF((8,), (16,), width=32)), torch.zeros(2, 64, 48, dtype=torch.bool)
    mask[1, 30:] = True
    inputs = ([torch.randn(2, 8, 4, 3)], mask, torch.randn(2, 3, 64, 48))
    graph = torch.export.export(neck, ([torch.randn(2, 8, 4, 3)], ~mask, inputs[2])).module()
    torch.testing.assert_close(graph(*inputs), neck(*inputs))


def test_chunks_and_images_with_fewer_cells_than_a_window(monkeypatch):
    """The window has all of their cells: attention to all keys of the image. Chunks of one cell compute what all do."""
    q, k, v = torch.randn(2, 8, 8, 20), torch.randn(2, 8, 2, 5), torch.randn(2, 12, 2, 5)
    inside, tokens = torch.tensor([[2, 3], [2, 5]]), lambda x: x.unflatten(1, (4, -1)).flatten(3).transpose(2, 3)
    found = attention.neighbourhood_attention(q.requires_grad_(), k, v, 4, 9, inside)
    for i, w in enumerate((3, 5)):
        x = (tokens(y[i : i + 1, ..., :n]) for y, n in ((q, 4 * w), (k, w), (v, w)))
        expected = F.scaled_dot_product_attention(*x).transpose(2, 3)
        torch.testing.assert_close(found[i : i + 1, ..., : 4 * w], expected.reshape(1, 12, 8, 4 * w))
    assert torch.autograd.grad(found.square().sum(), q)[0].ne(0).any()
    monkeypatch.setattr(attention, "_FEWEST", 1)
    torch.testing.assert_close(attention.neighbourhood_attention(q.detach(), k, v, 4, 9, inside), found)


@torch.no_grad()
def test_memory_of_the_averages_stays_below_twice_the_output():
    """By torch's profiler: the most bytes allocated and not freed, without the arguments."""
    q, k, v = torch.randn(1, 256, 96, 128), torch.randn(1, 256, 24, 32), torch.randn(1, 384, 24, 32)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        output = attention.neighbourhood_attention(q, k, v, 4, 9)
    events = [x for x in profile.profiler.kineto_results.events() if x.name() == "[memory]"]
    sizes = torch.tensor([x.nbytes() for x in sorted(events, key=lambda x: x.start_ns())])
    assert output.nbytes <= sizes.cumsum(0).max() < 2 * output.nbytes


def test_the_bilinear_control():
    neck, x = densevit.create_neck("bilinear", (5, 6), (14, 14)), torch.randn(1, 6, 3, 4)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(neck([x, x], torch.zeros(1, 42, 56, dtype=torch.bool)), [expected])
    assert (neck.strides, neck.channels) == ((7,), (6,))


class Coarse(Patches):
    """Maps of 7 and 8 channels, of strides 8 and 16. Its normalisation is not ImageNet's."""

    def __init__(self) -> None:
        super().__init__(16, 7)


class Seen(densevit.Neck):
    """Gives the images that it gets."""

    needs_images = True

    def __init__(self, channels, strides):
        super().__init__((3,), (1,))

    def forward(self, features, padding_mask, images):
        return [images]


def model_of(neck, **section):
    torch.manual_seed(0)
    backbone = {"name": f"{__name__}:Coarse", **section}
    return densevit.create_model(backbone, {"s": {"name": "linear", "dropout": 0.0, "neck": neck}}, classes=["a", "b"])


def test_necks_get_the_images_with_imagenets_normalisation(own_cache):
    """Also with cached features, and in windows; without images, the message names the argument."""
    model, batch = model_of({"name": f"{__name__}:Seen"}).eval(), batch_of((64, 96), (50, 70))
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = ((batch["images"] / 255 - mean) / std).masked_fill(batch["padding_mask"][:, None], 0)
    [seen] = model.head_inputs("s", model.features(batch), batch["padding_mask"], batch["images"])
    torch.testing.assert_close(seen, expected)
    outputs = model(batch)["s"]["logits"]
    torch.testing.assert_close(outputs, model.heads["s"]([expected], batch["padding_mask"])["logits"])
    model.cache = FeatureCache(model, "fp32", 2)
    assert all(torch.equal(model(batch)["s"]["logits"], outputs) for _ in range(2))
    model.cache = None
    whole = model.infer(batch)["s"][0]["semantic"]
    model.inference = {"s": model.inference["s"].model_copy(update={"window": 32, "stride": 32})}
    assert torch.equal(model.infer(batch)["s"][0]["semantic"], whole)
    with pytest.raises(PluginError, match=r"heads\.s\.neck \(Seen\) needs the images"):
        model.head_inputs("s", model.features(batch), batch["padding_mask"])


def test_a_neck_has_weights_of_its_own(tmp_path):
    """From the authors' names of tensors, and from a model; a saved model needs neither file."""
    model = model_of({"name": "naf", "width": 32})
    weighted(model.necks["s"])
    torch.save(model.necks["s"].state_dict(), tmp_path / "naf_release.pth")
    model.save(tmp_path / "model.safetensors")
    for file in ("naf_release.pth", "model.safetensors"):
        other = model_of({"name": "naf", "width": 32, "weights": str(tmp_path / file)})
        torch.testing.assert_close(other.necks.state_dict(), model.necks.state_dict(), rtol=0, atol=0)
        other.save(tmp_path / "other")
        (tmp_path / file).unlink()
        torch.testing.assert_close(
            densevit.load(tmp_path / "other", trust=True).necks.state_dict(), model.necks.state_dict()
        )


@pytest.mark.filterwarnings("ignore:method.teacher. no weights")
def test_the_method_reconstructs_features_and_heads_do_not_train_the_neck():
    model, batch = model_of({"name": "naf", "width": 32}, freeze=True).train(), batch_of((64, 96), (50, 70))
    method, neck = densevit.create_method("naf", model), weighted(model.necks["s"])
    for target in batch["targets"]:
        target["semantic"] = torch.zeros(target["size"], dtype=torch.uint8)
    losses = method.training_step(model, batch, LossContext())
    pixels, images = (
        f(batch["images"], batch["padding_mask"])[..., :32, :64] for f in (model.normalise, model.neck_images)
    )
    coarse, targets = F.avg_pool2d(pixels, 2), model.backbone(pixels)[1]  # bilinear to half the size is a mean of 2 x 2
    images = F.interpolate(images, (8, 16), mode="bilinear")  # 4 pixels per cell of the output
    expected = (neck.upsample(images, model.backbone(coarse)[1], 2) - targets).square().mean((1, 2, 3))
    torch.testing.assert_close(losses["reconstruction"], expected.mean())
    distillation = densevit.create_method("feature_distillation", model, teacher={"name": f"{__name__}:Coarse"})
    distilled = distillation.training_step(model, batch, LossContext())
    torch.testing.assert_close(distilled["s/cross_entropy"], losses["s/cross_entropy"])
    losses["s/cross_entropy"].backward(retain_graph=True)
    assert all(p.grad is None for p in neck.parameters()) and model.heads["s"].linear.convolution.weight.grad.any()
    losses["reconstruction"].backward()
    assert all(p.grad.any() for p in neck.parameters())
    for broken, facts in (
        (model_of({"name": "naf"}), "backbone.freeze=true"),
        (model_of(None, freeze=True), "neck.name=naf"),
    ):
        with pytest.raises(ConfigError, match=facts):
            densevit.create_method("naf", broken)
