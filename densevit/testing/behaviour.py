"""Checks of how a backbone behaves: alone and in batches, twice, in other precisions, on other devices, exported."""

import torch
from torch import Tensor

from densevit.testing.results import Failure, described
from densevit.testing.subjects import BackboneSubject, Subject, difference, named, worst

ROUNDING = 1e-4  # of the largest value: what another order of summation may change


def determinism(subject: Subject) -> None:
    """Evaluation gives the same twice, also after a change of mode, and draws no random numbers."""
    module = subject.shared()
    first = subject.run(module)
    state = torch.get_rng_state()
    second = subject.run(module)
    drawn = not torch.equal(state, torch.get_rng_state())
    third = subject.run(module.train().eval())
    for what, other in (("two runs", second), ("runs before and after train() and eval()", third)):
        name, far = worst(other, first)
        if far > 0:
            raise Failure(
                f"{what} in evaluation mode that differ by {far:.2g} of the largest value in {name}",
                "the same, to the last bit",
                "use nn.Dropout, or F.dropout(x, rate, self.training), and draw nothing at random in eval()",
            )
    if drawn:
        raise Failure(
            "random numbers drawn in evaluation mode",
            "none: they shift those of everything else",
            "draw only where self.training is true",
        )


def batch_independence(subject: BackboneSubject) -> None:
    """In evaluation mode a picture's features do not depend on the others of its batch."""
    backbone = subject.shared()
    images = subject.images(3)
    images[1], images[2] = 2.6, images[2] * 0.1  # neighbours as different as can be
    with torch.no_grad():
        together, alone = backbone(images.clone()), backbone(images[:1].clone())
    for i, (a, b) in enumerate(zip(together, alone, strict=True)):
        far = difference(a[:1], b)
        if far > ROUNDING:
            raise Failure(
                f"features[{i}] of a picture that differ by {far:.2g} of the largest value, alone and in a batch of 3",
                "the same",
                "normalise over no batch in eval(): F.batch_norm(..., training=self.training) with running statistics; "
                "mix no dimension 0 in reshapes",
            )


def input_unchanged(subject: BackboneSubject) -> None:
    """The pictures that come in stay as they are."""
    images = subject.images()
    before = images.clone()
    with torch.no_grad():
        subject.shared()(images)
        if torch.equal(images, before):
            subject.build().train()(images)
    if not torch.equal(images, before):
        raise Failure(
            "the images changed by forward",
            "the same images as before",
            "write x = x + y in place of x += y, and use no inplace=True, until x is a tensor of your own",
        )


def output_kept(subject: BackboneSubject) -> None:
    """Features that were given stay as they are when the backbone runs again."""
    backbone = subject.shared()
    with torch.no_grad():
        features = list(backbone(subject.images()))
        before = [feature.clone() for feature in features]
        backbone(subject.images(seed=2))
    for i, (feature, kept) in enumerate(zip(features, before, strict=True)):
        if not torch.equal(feature, kept):
            raise Failure(
                f"features[{i}] overwritten by the next run",
                "features that belong to the caller",
                "write into new tensors, not into ones that self keeps",
            )


def finite(subject: BackboneSubject) -> None:
    """Features are finite for blank pictures too."""
    backbone = subject.shared()
    with torch.no_grad():
        for what, images in (("noise", subject.images()), *_blank(subject)):
            _check_finite(backbone(images), f"{what} in {torch.get_default_dtype()}")


def autocast_bfloat16(subject: BackboneSubject) -> None:
    """Features are finite under bf16 autocast, in evaluation and training."""
    _autocast(subject, torch.bfloat16)


def autocast_float16(subject: BackboneSubject) -> None:
    """Features are finite under fp16 autocast, in evaluation and training."""
    _autocast(subject, torch.float16)


def _autocast(subject: BackboneSubject, dtype: torch.dtype) -> None:
    backbone = subject.build()
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        for what, images in (("noise", subject.images()), *_blank(subject)):
            _check_finite(backbone.eval()(images), f"{what} under {dtype} autocast")
        _check_finite(backbone.train()(subject.images()), f"noise under {dtype} autocast in training")


def _blank(subject: BackboneSubject) -> tuple[tuple[str, Tensor], ...]:
    noise = subject.images(1)
    return (("a black picture", torch.full_like(noise, -2.1)), ("a picture of zeros", torch.zeros_like(noise)))


def _check_finite(features: list[Tensor], what: str) -> None:
    for i, feature in enumerate(features):
        if not feature.isfinite().all():
            part = 1 - float(feature.isfinite().float().mean())
            raise Failure(
                f"{part:.0%} of features[{i}] not finite for {what}",
                "finite numbers",
                "keep values below 65504 (normalise before products, scale queries, not scores), add an eps where "
                "something is divided, or compute that part in float32 with autocast off",
            )
        if not feature.is_floating_point():
            raise Failure(f"features[{i}] of {feature.dtype} for {what}", "floating point", "return what is computed")


def memory_layouts(subject: BackboneSubject) -> None:
    """Pictures that lie in memory in another way, channels last or turned, give the same."""
    backbone, images = subject.shared(), subject.images()
    turned = images.transpose(2, 3).contiguous().transpose(2, 3)
    with torch.no_grad():
        expected = named(backbone(images.clone()))
        for what, other in (("channels-last", images.to(memory_format=torch.channels_last)), ("turned", turned)):
            name, far = worst(named(backbone(other)), expected)
            if far > ROUNDING:
                raise Failure(
                    f"{name} that differs by {far:.2g} of the largest value for {what} pictures",
                    "the same as for contiguous ones",
                    "use reshape or .contiguous(), and never as_strided or set_() on what comes in",
                )


def float64(subject: BackboneSubject) -> None:
    """The backbone moves to float64 as a whole."""
    backbone = subject.build().eval().double()
    with torch.no_grad():
        features = backbone(subject.images().double())
    for i, feature in enumerate(features):
        if feature.dtype != torch.float64:
            raise Failure(
                f"features[{i}] of {feature.dtype} from a model and pictures in float64",
                "torch.float64",
                "let dtypes follow the input: x.new_zeros(...), .to(x.dtype); no .float() on the way",
            )


def device(subject: BackboneSubject) -> str | None:
    """Everything moves with the module: tried on the meta device, where nothing of the CPU is at hand."""
    backbone = subject.build().eval().to("meta")
    try:
        with torch.no_grad():
            features = backbone(torch.empty(2, 3, *subject.size, device="meta"))
    except Exception as error:
        text = str(error)
        if any(
            word in text for word in ("item()", "_local_scalar_dense", "copy out of meta", "data-dependent", "nonzero")
        ):
            return "not checked: forward reads values of tensors"
        raise Failure(
            described(error),
            "everything on the device of the module and the pictures",
            "register tensors with register_buffer(name, tensor, persistent=False), and make others with "
            "device=x.device",
        ) from None
    for i, feature in enumerate(features):
        if feature.device.type != "meta":
            raise Failure(f"features[{i}] on {feature.device}", "the pictures' device", "write device=x.device")
    return None


def export(subject: BackboneSubject) -> None:
    """torch.export takes it, and what it exports computes the same."""
    backbone, images = subject.shared(), subject.images()
    expected = subject.run(backbone)
    with torch.no_grad():
        program = torch.export.export(backbone, (images,))
        features = program.module()(images.clone())
    name, far = worst(named(features), expected)
    if far > ROUNDING:
        raise Failure(
            f"{name} of the exported program that differs by {far:.2g} of the largest value",
            "the same as without export",
            "keep state between runs out of forward",
        )
