"""Checks of a backbone against `densevit.interfaces.Backbone`."""

from collections.abc import Callable, Collection, Iterator

from densevit.interfaces import Backbone
from densevit_workbench.testing import behaviour, feature_maps, gradients, state_checks
from densevit_workbench.testing.check_results import CheckResult, all_passed, run
from densevit_workbench.testing.fixtures import BackboneFixture

CHECKS = (
    feature_maps.construction,
    feature_maps.attributes,
    feature_maps.order,
    feature_maps.forward,
    feature_maps.layout,
    feature_maps.channels,
    feature_maps.sizes,
    feature_maps.strides,
    feature_maps.places,
    gradients.parameter_gradients,
    gradients.image_gradients,
    gradients.trains,
    behaviour.input_unchanged,
    behaviour.finite,
    behaviour.autocast_bfloat16,
    behaviour.autocast_float16,
    behaviour.float64,
    behaviour.device,
    state_checks.seeding,
    state_checks.options,
    feature_maps.in_channels,
    state_checks.registration,
    state_checks.parameter_depths,
    behaviour.determinism,  # required: the checks below compare runs
    behaviour.batch_independence,
    behaviour.output_kept,
    behaviour.earlier_sizes,
    behaviour.memory_layouts,
    behaviour.gradient_checkpointing,
    behaviour.export,
    state_checks.state_dict,
    state_checks.pickling,
)


def check_backbone(factory: Callable[[], Backbone], *, skip: Collection[str] = ()) -> list[CheckResult]:
    """Checks that a backbone meets its interface. Returns results; raises CheckFailed with all failures.

    factory: a class, or a callable without arguments that returns a new instance, such as
    `functools.partial(MyNet, width=8)`. The checks of a small backbone take seconds on one CPU core. skip: names of
    checks to leave out.
    """
    fixture = BackboneFixture(factory)
    return all_passed(fixture.name, run(CHECKS, fixture, skip))


def backbone_checks(factory: Callable[[], Backbone], *, skip: Collection[str] = ()) -> Iterator[CheckResult]:
    """Yields the results of `check_backbone`, failures included; does not raise CheckFailed."""
    return run(CHECKS, BackboneFixture(factory), skip)
