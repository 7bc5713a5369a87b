"""Checks of a backbone's outputs: determinism, batches, precisions, memory layouts, devices and export."""

import inspect
from copy import deepcopy

import torch
from torch import Tensor

from densevit_workbench.testing.check_results import Failure, NotChecked, check, described, require
from densevit_workbench.testing.fixtures import BackboneFixture, Fixture, named, require_equal

RUNS = "make it run for images (B, 3, H, W) of any size, in training and evaluation mode"
_DTYPES = "follow dtypes: x.to(y.dtype)"
_DATA_DEPENDENT = ("item()", "_local_scalar_dense", "copy out of meta", "data-dependent", "nonzero")


@check("the same output twice in eval()", RUNS, required=True)
def determinism(fixture: Fixture) -> None:
    """Evaluation mode is deterministic, also after train() and eval(), and draws no random numbers."""
    module = fixture.shared()
    first = fixture.run(module)
    state = torch.get_rng_state()
    second = fixture.run(module)
    drawn = not torch.equal(state, torch.get_rng_state())
    third = fixture.run(module.train().eval())
    for what, other in (("two runs", second), ("runs before and after train() and eval()", third)):
        require_equal(
            other,
            first,
            f"{what} in evaluation mode that differ by {{difference}} in {{name}}",
            "use nn.Dropout, or F.dropout(x, rate, self.training), and draw no random numbers in eval()",
            tolerance=0,
            wanted="bit-identical outputs",
        )
    require(
        not drawn,
        "random numbers drawn in evaluation mode",
        "none: they would change all random numbers drawn later",
        "draw only if self.training is true",
    )


@check("the same features alone and in a batch", "support any batch size")
def batch_independence(fixture: BackboneFixture) -> None:
    """In evaluation mode, features of an image do not depend on the rest of its batch."""
    images = fixture.images(3)
    images[1], images[2] = 2.6, images[2] * 0.1  # very different from the first image
    require_equal(
        named([x[:1] for x in fixture.features(images.clone())]),
        named(fixture.features(images[:1].clone())),
        "{name} of an image that differ by {difference}, alone and in a batch of 3",
        "do not normalise over the batch in eval(): F.batch_norm(..., training=self.training) with running statistics; "
        "keep dimension 0 in reshapes",
    )


@check("images that are not modified", RUNS)
def input_unchanged(fixture: BackboneFixture) -> None:
    """forward does not modify its input, in evaluation and training mode."""
    images = fixture.images()
    before = images.clone()
    with torch.no_grad():
        for module in (fixture.shared(), fixture.build().train()):
            module(images)
            require(
                torch.equal(images, before),
                "images modified by forward",
                "the same images as before",
                "write x = x + y instead of x += y, and do not use inplace=True on the input",
            )


@check("features that do not depend on earlier images", RUNS)
def earlier_sizes(fixture: BackboneFixture) -> None:
    """Images of H x W, W x H and H x W in turn give the features of a fresh copy, to the last bit."""
    H, W = fixture.size
    if fixture.shared().input_size is not None:
        raise NotChecked("not checked: takes images of one size")
    reused = fixture.build().eval()
    state = deepcopy(reused.state_dict())
    for size in ((H, W), (W, H), (H, W)):
        unused, images = fixture.build().eval(), fixture.images(size=size)
        unused.load_state_dict(state)
        with torch.no_grad():
            try:
                expected = unused(images.clone())
            except Exception as error:
                raise NotChecked(f"not checked at {size[0]} x {size[1]}: {described(error)}") from None
            require_equal(
                named(reused(images)),
                named(expected),
                f"{{name}} of {size[0]} x {size[1]} pixels that differs by {{difference}} after images of another size",
                "key cached positions, masks and indices by (H, W), not by the number of tokens",
                tolerance=0,
                wanted="the features of a fresh copy",
            )


@check("features that are not overwritten", RUNS)
def output_kept(fixture: BackboneFixture) -> None:
    """A later forward does not overwrite earlier features."""
    features = fixture.features()
    before = [feature.clone() for feature in features]
    fixture.features(fixture.images(seed=2))
    for i, (feature, copy) in enumerate(zip(features, before, strict=True)):
        require(
            torch.equal(feature, copy),
            f"features[{i}] overwritten by the next forward",
            "features that stay unchanged",
            "return new tensors, not buffers stored in self",
        )


@check("finite features", RUNS)
def finite(fixture: BackboneFixture) -> None:
    """Features are finite, for constant images too."""
    for what, images in _inputs(fixture):
        _require_finite(fixture.features(images), f"{what} in {torch.get_default_dtype()}")


@check("finite features under bf16 autocast", _DTYPES)
def autocast_bfloat16(fixture: BackboneFixture) -> None:
    """Features are finite under bf16 autocast, in evaluation and training mode."""
    _autocast(fixture, torch.bfloat16)


@check("finite features under fp16 autocast", _DTYPES)
def autocast_float16(fixture: BackboneFixture) -> None:
    """Features are finite under fp16 autocast, in evaluation and training mode."""
    _autocast(fixture, torch.float16)


def _autocast(fixture: BackboneFixture, dtype: torch.dtype) -> None:
    backbone = fixture.build()
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        for what, images in _inputs(fixture):
            _require_finite(backbone.eval()(images), f"{what} under {dtype} autocast")
        _require_finite(backbone.train()(fixture.images()), f"noise under {dtype} autocast in training mode")


def _inputs(fixture: BackboneFixture) -> tuple[tuple[str, Tensor], ...]:
    images = fixture.images(1)
    black, zeros = torch.full_like(images, -2.1), torch.zeros_like(images)
    return (("noise", fixture.images()), ("a black image", black), ("an image of zeros", zeros))


def _require_finite(features: list[Tensor], what: str) -> None:
    for i, feature in enumerate(features):
        invalid = 1 - float(feature.isfinite().float().mean())
        require(
            feature.isfinite().all(),
            f"{invalid:.0%} of features[{i}] not finite for {what}",
            "finite numbers",
            "keep values below 65504 (normalise before products, scale queries, not scores), add an eps to divisions, "
            "or compute that part in float32 with autocast off",
        )
        require(
            feature.is_floating_point(),
            f"features[{i}] of {feature.dtype} for {what}",
            "floating point",
            "return the features before any conversion",
        )


@check(
    "the same gradients and buffers with `gradient_checkpointing`",
    "recompute parts by densevit.layers.checkpointing.run",
)
def gradient_checkpointing(fixture: BackboneFixture) -> None:
    """The option `gradient_checkpointing` only changes the memory of a training step, not gradients and buffers."""
    plain = fixture.build()
    if "gradient_checkpointing" not in inspect.signature(fixture.plugin).parameters:
        raise NotChecked("no option `gradient_checkpointing`")
    try:
        spared = fixture.factory(gradient_checkpointing=True)
    except TypeError:
        raise NotChecked(
            "not checked: the factory does not accept the option `gradient_checkpointing`; functools.partial(CLASS, "
            "...) does"
        ) from None
    spared.load_state_dict(plain.state_dict())
    computed = []
    for backbone in (plain, spared):
        torch.manual_seed(0)  # drop path
        fixture.training_loss(backbone).backward()
        gradients = {f"the gradient of {key}": p.grad for key, p in backbone.named_parameters() if p.grad is not None}
        buffers = {f"the buffer {key}": x.detach().clone() for key, x in backbone.named_buffers()}
        computed.append({**gradients, **buffers})
    require_equal(
        computed[1],
        computed[0],
        "{name} that differs by {difference} with checkpointing",
        "recompute parts by densevit.layers.checkpointing.run, which updates running statistics once",
    )


@check("support for any memory layout", "use reshape instead of view")
def memory_layouts(fixture: BackboneFixture) -> None:
    """Channels-last and transposed images give the same features."""
    images = fixture.images()
    layouts = {
        "channels-last": images.to(memory_format=torch.channels_last),
        "transposed": images.transpose(2, 3).contiguous().transpose(2, 3),
    }
    expected = named(fixture.features(images.clone()))
    for layout, other in layouts.items():
        require_equal(
            named(fixture.features(other)),
            expected,
            f"{{name}} that differs by {{difference}} for {layout} images",
            "use reshape or .contiguous(), and no as_strided or set_() on the input",
            wanted="the same as for contiguous images",
        )


@check("features in float64", "let dtypes follow the input: x.new_zeros, y.to(x.dtype)")
def float64(fixture: BackboneFixture) -> None:
    """The backbone runs in float64."""
    with torch.no_grad():
        features = fixture.build().eval().double()(fixture.images().double())
    for i, feature in enumerate(features):
        require(
            feature.dtype == torch.float64,
            f"features[{i}] of {feature.dtype} from a model and images in float64",
            "torch.float64",
            "let dtypes follow the input: x.new_zeros(...), .to(x.dtype); no .float()",
        )


@check("all tensors on one device", "create tensors with device=x.device")
def device(fixture: BackboneFixture) -> None:
    """All tensors are on the device of the module; checked on the meta device, where a CPU tensor raises."""
    backbone = fixture.build().eval().to("meta")
    try:
        with torch.no_grad():
            features = backbone(torch.empty(2, 3, *fixture.size, device="meta"))
    except Exception as error:
        if any(word in str(error) for word in _DATA_DEPENDENT):
            raise NotChecked("not checked: forward depends on values of tensors, which the meta device lacks") from None
        raise Failure(
            described(error),
            "all tensors on the device of the module and the images",
            "register tensors with register_buffer(name, tensor, persistent=False), and create others with "
            "device=x.device",
        ) from None
    for i, x in enumerate(features):
        require(x.device.type == "meta", f"features[{i}] on {x.device}", "the device of the images", "use x.device")


@check(
    "support for torch.export",
    "branch on shapes, not on values of tensors: no .item(), no `if x.sum() > 0`, no numpy in forward; x.shape[0], not "
    "len(x), which fixes the number of images",
)
def export(fixture: BackboneFixture) -> None:
    """torch.export exports the backbone for any number of images, and the program gives the same features."""
    backbone, images = fixture.shared(), fixture.images()
    expected = fixture.run(backbone)
    with torch.no_grad():
        program = torch.export.export(backbone, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        features = program.module()(images.clone())
    require_equal(
        named(features),
        expected,
        "{name} of the exported program that differs by {difference}",
        "keep no state between calls of forward",
        wanted="the same as without export",
    )
