"""Checks of a head against `densevit.interfaces.Head`."""

from collections.abc import Callable, Collection, Iterator, Sequence

from densevit.interfaces import Head
from densevit_workbench.testing import (
    behaviour,
    gradients,
    head_export,
    head_losses,
    head_maps,
    head_predictions,
    head_unlabelled,
    state_checks,
)
from densevit_workbench.testing.check_results import CheckResult, all_passed, run
from densevit_workbench.testing.head_fixtures import HeadFixture

CHANNELS, STRIDES = (16, 32, 48, 64), (4, 8, 16, 32)

CHECKS = (
    head_losses.construction,
    head_losses.several_levels,
    head_losses.one_level,
    head_losses.equal_strides,
    head_losses.one_class,
    head_losses.odd_sizes,
    head_losses.loss_keys,
    head_losses.empty_targets,
    head_losses.unlabelled,
    gradients.parameter_gradients,
    head_losses.autocast_bfloat16,
    head_losses.autocast_float16,
    head_losses.inputs_unchanged,
    head_predictions.predictions,
    head_predictions.inside_image,
    head_predictions.original_pixels,
    head_predictions.targets_unread,
    head_maps.maps,
    head_export.export,
    head_export.exported_predictions,
    state_checks.seeding,
    state_checks.options,
    state_checks.registration,
    behaviour.determinism,  # required: the checks below compare runs
    head_losses.partly_labelled,
    head_unlabelled.unlabelled_values,
    head_unlabelled.unlabelled_pixels,
    head_unlabelled.crowds,
    head_predictions.class_rows,
    head_predictions.padding,
    head_predictions.batch_independence,
    state_checks.state_dict,
    state_checks.pickling,
)


def check_head(
    factory: Callable[..., Head],
    *,
    channels: Sequence[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
    reach: int = 96,
    skip: Collection[str] = (),
) -> list[CheckResult]:
    """Checks that a head meets its interface. Returns the results; raises CheckFailed with all failures.

    factory: a class, or a callable that returns a new instance for (channels, strides, classes), such as
    `functools.partial(MyHead, width=8)`. The checks of a small head take seconds. channels, strides: the features in
    most checks; checks with one level use the coarsest. reach: predictions may depend on
    padding up to this many pixels outside the image, as with convolutions across the border, and not on padding farther
    out. skip: names of checks to leave out. Losses are not checked if required targets have no random ones.
    """
    fixture = HeadFixture(factory, channels, strides, reach)
    return all_passed(fixture.name, run(CHECKS, fixture, skip))


def head_checks(
    factory: Callable[..., Head],
    *,
    channels: Sequence[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
    reach: int = 96,
    skip: Collection[str] = (),
) -> Iterator[CheckResult]:
    """Yields the results of `check_head`, failures included; does not raise CheckFailed."""
    return run(CHECKS, HeadFixture(factory, channels, strides, reach), skip)
