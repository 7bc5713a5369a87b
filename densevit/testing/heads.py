"""Proves a head: that it is what `densevit.interfaces.Head` says, so that it works on every backbone."""

from collections.abc import Callable, Collection, Iterator, Sequence

from densevit.interfaces import Head
from densevit.testing import behaviour, gradients, head_losses, head_maps, head_predictions, state
from densevit.testing.head_subject import HeadSubject
from densevit.testing.results import Check, Result, all_passed, run

CHANNELS, STRIDES = (16, 32, 48, 64), (4, 8, 16, 32)

_RUNS = "read channels and strides in the constructor and sizes from the features: neither is fixed"
_DTYPES = "let dtypes follow: x.to(y.dtype); compute losses in float32 with autocast off"
_PREDICTS = "let predict take the outputs of eval() and targets with size and original_size alone"

CHECKS: tuple[Check[HeadSubject], ...] = (
    Check("construction", head_losses.construction, "a new Head", "take (channels, strides, classes) first", True),
    Check("several_levels", head_losses.several_levels, "training and prediction on several levels", _RUNS),
    Check("one_level", head_losses.one_level, "training and prediction on one level", _RUNS),
    Check("equal_strides", head_losses.equal_strides, "training and prediction on two levels of one stride", _RUNS),
    Check("one_class", head_losses.one_class, "training and prediction with one class", "let K be 1"),
    Check("odd_sizes", head_losses.odd_sizes, "training and prediction at odd sizes", _RUNS),
    Check("loss_keys", head_losses.loss_keys, "the same losses at all times", "take any mixture of labels"),
    Check("empty_targets", head_losses.empty_targets, "a loss for images without objects", "let N be 0"),
    Check("unlabelled", head_losses.unlabelled, "a loss of 0 without labels", "ask `'boxes' in target` first"),
    Check("parameter_gradients", gradients.parameters_connected, "a gradient in every parameter", "detach nothing"),
    Check("autocast_bfloat16", head_losses.autocast_bfloat16, "a finite loss under bf16", _DTYPES),
    Check("autocast_float16", head_losses.autocast_float16, "a finite loss under fp16", _DTYPES),
    Check("inputs_unchanged", head_losses.inputs_unchanged, "features and targets left as they are", _RUNS),
    Check("predictions", head_predictions.predictions, "predictions of the task", _PREDICTS),
    Check("inside_picture", head_predictions.inside_picture, "boxes inside the picture", _PREDICTS),
    Check("original_pixels", head_predictions.original_pixels, "results in original pixels", _PREDICTS),
    Check("targets_unread", head_predictions.targets_unread, "predictions without labels", _PREDICTS),
    Check("maps", head_maps.maps, "maps that say what predict says", "see maps and read_maps in interfaces.py"),
    Check("seeding", state.seeding, "the same from the same seed", "draw from torch's random numbers only"),
    Check("options", state.option_checking, "checked options", "list options with type and default in the constructor"),
    Check("registration", state.registration, "a class that the registry finds", "see densevit/interfaces.py"),
    # What follows compares runs.
    Check("determinism", behaviour.determinism, "the same twice in eval()", _RUNS, True),
    Check(
        "partly_labelled", head_losses.partly_labelled, "unlabelled images left out", "ask `'boxes' in target` first"
    ),
    Check("padding", head_predictions.padding, "predictions that ignore padding", _RUNS),
    Check("batch_independence", head_predictions.batch_independence, "the same alone and in a batch", _RUNS),
    Check("state_dict", state.state_dict, "state that loads", "make the same parameters and buffers at every build"),
    Check("pickling", state.pickling, "copies that work", "keep only picklable things in self"),
)


def check_head(
    factory: Callable[..., Head],
    *,
    channels: Sequence[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
    reach: int = 96,
    skip: Collection[str] = (),
) -> list[Result]:
    """Proves that a head keeps its contract, and returns what came of each check.

    Raises CheckFailed, with all that failed.

    factory: a class, or a callable that builds a new one from (channels, strides, classes), such as
    `functools.partial(MyHead, width=8)`. channels, strides: of the features it is mostly tried on; the coarsest stand
    alone where one level is. reach: how many pixels off the picture padding may still count, as it does where
    convolutions cross the border. skip: names of checks that do not apply. A small head will do: it takes seconds.
    A head whose `needs` have keys of its own is checked in all but its losses.
    """
    subject = HeadSubject(factory, channels, strides, reach)
    return all_passed(subject.name, run(CHECKS, subject, skip))


def head_checks(
    factory: Callable[..., Head],
    *,
    channels: Sequence[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
    reach: int = 96,
    skip: Collection[str] = (),
) -> Iterator[Result]:
    """The results of `check_head` one by one, as they come; failures are among them and not raised."""
    return run(CHECKS, HeadSubject(factory, channels, strides, reach), skip)
