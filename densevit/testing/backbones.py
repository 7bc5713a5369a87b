"""Proves a backbone: that it is what `densevit.interfaces.Backbone` says, so that it works under every head."""

from collections.abc import Callable, Collection, Iterator

from densevit.interfaces import Backbone
from densevit.testing import behaviour, gradients, maps, state
from densevit.testing.results import Check, Result, all_passed, run
from densevit.testing.subjects import BackboneSubject

_RUNS = "let it run for pictures (B, 3, H, W) of any size, in both modes"

CHECKS: tuple[Check[BackboneSubject], ...] = (
    Check("construction", maps.construction, "a new Backbone", "make it buildable: give options, or defaults", True),
    Check("attributes", maps.attributes, "channels, strides, mean, std", "set them in the constructor", True),
    Check("order", maps.order, "strides from fine to coarse", "sort the features"),
    Check("forward", maps.forward, "a list of maps", _RUNS, True),
    Check("layout", maps.layout, "maps (B, C, H, W)", _RUNS),
    Check("channels", maps.channels, "the stated channels", _RUNS),
    Check("sizes", maps.sizes, "any height and width", _RUNS),
    Check("strides", maps.strides, "maps of ceil(size / stride)", _RUNS),
    Check("places", maps.places, "cells where their pixels are", _RUNS),
    Check("parameter_gradients", gradients.parameter_gradients, "a gradient in every parameter", "detach nothing"),
    Check("image_gradients", gradients.image_gradients, "a gradient in every pixel", "detach nothing"),
    Check("trains", gradients.trains, "two steps of training", "change nothing in place that a gradient needs"),
    Check("input_unchanged", behaviour.input_unchanged, "images left as they are", _RUNS),
    Check("finite", behaviour.finite, "finite features", _RUNS),
    Check(
        "autocast_bfloat16", behaviour.autocast_bfloat16, "finite features under bf16", "follow dtypes: x.to(y.dtype)"
    ),
    Check("autocast_float16", behaviour.autocast_float16, "finite features under fp16", "follow dtypes: x.to(y.dtype)"),
    Check(
        "float64", behaviour.float64, "features in float64", "let dtypes follow the input: x.new_zeros, y.to(x.dtype)"
    ),
    Check("device", behaviour.device, "everything on one device", "make tensors with device=x.device"),
    Check("seeding", state.seeding, "the same from the same seed", "draw from torch's random numbers only"),
    Check("options", state.option_checking, "checked options", "list options with type and default in the constructor"),
    Check("registration", state.registration, "a class that the registry finds", "see docs/own-backbone.md"),
    Check("parameter_depths", state.parameter_depths, "every parameter once", "return lists of parameters"),
    # What follows compares runs.
    Check("determinism", behaviour.determinism, "the same twice in eval()", _RUNS, True),
    Check("batch_independence", behaviour.batch_independence, "the same alone and in a batch", "take any batch size"),
    Check("output_kept", behaviour.output_kept, "features that stay as they are", _RUNS),
    Check("memory_layouts", behaviour.memory_layouts, "any layout in memory", "write reshape in place of view"),
    Check(
        "export",
        behaviour.export,
        "torch.export takes it",
        "decide by shapes, not by values of tensors: no .item(), no `if x.sum() > 0`, no numpy in forward",
    ),
    Check("state_dict", state.state_dict, "state that loads", "make the same parameters and buffers at every build"),
    Check("pickling", state.pickling, "copies that work", "keep only picklable things in self"),
)


def check_backbone(factory: Callable[[], Backbone], *, skip: Collection[str] = ()) -> list[Result]:
    """Proves that a backbone keeps its contract, and returns what came of each check.

    Raises CheckFailed, with all that failed.

    factory: a class or a callable without arguments that builds a new one, such as
    `functools.partial(MyNet, width=8)`.
    A small one will do: on one CPU core it takes seconds. skip: names of checks that do not apply.
    """
    subject = BackboneSubject(factory)
    return all_passed(subject.name, run(CHECKS, subject, skip))


def backbone_checks(factory: Callable[[], Backbone], *, skip: Collection[str] = ()) -> Iterator[Result]:
    """The results of `check_backbone` one by one, as they come; failures are among them and not raised."""
    return run(CHECKS, BackboneSubject(factory), skip)
