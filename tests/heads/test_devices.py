"""Heads, losses and evaluators on a simulated accelerator: no mixed devices and no synchronisation."""

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from densevit import registry
from densevit.interfaces import Head, Losses
from densevit.losses.context import LossContext
from densevit.losses.distributed import with_cpu_copy
from densevit_workbench.testing.head_fixtures import HeadBatch, HeadFixture
from tests.heads.cases import CASES
from tests.strict_device import DEVICE, Accelerator, host, moved

pytestmark = pytest.mark.integration

# The copies to the CPU in a training step: one of the matching costs, for heads that match, and those below. Not here:
# torchvision's losses, which index by lists and masks and read counts.
NAMES = [name for name, case in CASES.items() if case.head not in ("faster_rcnn", "fcos")]
NO_MATCHING = {"classifier", "dpt", "linear", "linear_depth", "one_stage", "perceiver_io", "segformer", "segmenter",
               "setr", "upernet", "dpt_segmentation", "gtr_semantic"}  # fmt: skip
OF_PROPOSALS = ("deformable_detr, two-stage",)  # of all cells, which are matched by themselves
BOXES_ON_THE_CPU = ("box_query_detr, all extensions", "dfine", "mask2former_instance")


def copies(name: str) -> int:
    head = CASES[name].head
    return (head not in NO_MATCHING) + (name in OF_PROPOSALS)


def built(name: str) -> tuple[HeadFixture, Head]:
    case = CASES[name]
    fixture = HeadFixture(
        functools.partial(registry.load("heads", case.head), **case.options), (16, 32, 48, 64), (4, 8, 16, 32), 0
    )
    return fixture, fixture.build()


def there(batch: HeadBatch, move: Callable[[Tensor], Tensor]) -> HeadBatch:
    return HeadBatch(*(tree_map_only(Tensor, move, x) for x in batch))


def training_step(head: Head, batch: HeadBatch) -> Losses:
    torch.manual_seed(1)
    losses = head.train().loss(head(batch.features, batch.padding_mask, batch.targets), batch.targets, LossContext())
    torch.stack(list(losses.values())).sum().backward()
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_mixes_no_devices_and_synchronises_only_for_matching(name: str) -> None:
    """Also without float64, which Apple GPUs lack; with unlabelled images, and with boxes that stay on the CPU."""
    fixture, head = built(name)
    labelled, half, bare = (fixture.batch(labelled=(every, True, every)) for every in (True, False, False))
    bare = bare._replace(targets=bare.unlabelled())
    for batch in (labelled, half, bare) if name in BOXES_ON_THE_CPU else (half, bare):
        expected, moving = training_step(copy.deepcopy(head), batch), copy.deepcopy(head)
        with Accelerator(torch.float64) as accelerator:
            moved(moving)
            given = there(batch, lambda x: with_cpu_copy(x.to(DEVICE), x))
            if batch is labelled:
                given = given._replace(targets=batch.targets)
            accelerator.waits.clear()
            losses = training_step(moving, given)
            waits = 0 if batch is bare else copies(name)
            if batch is not labelled:
                assert dict(accelerator.waits) == ({"to the CPU": waits} if waits else {})
        for key, value in expected.items():
            torch.testing.assert_close(host(losses[key]).detach(), value.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["detr_panoptic", "mask2former_semantic", "max_deeplab"])
def test_ids_of_maps_that_are_only_on_the_device_are_copied_once_for_all_images(name: str) -> None:
    fixture, head = built(name)
    with Accelerator() as accelerator:
        moved(head)
        given = there(fixture.batch(labelled=(True, False, True)), lambda x: x.to(DEVICE))
        accelerator.waits.clear()
        training_step(head, given)
        assert dict(accelerator.waits) == {"to the CPU": copies(name) + 1}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_a_step_synchronises_only_for_matching(name: str, recwarn: pytest.WarningsRecorder) -> None:
    fixture, head = built(name)
    batch: Any = there(fixture.batch(labelled=(True, False, True)), lambda x: with_cpu_copy(x.cuda(), x))
    head.cuda()
    for step in range(2):  # the first one chooses kernels
        torch.cuda.set_sync_debug_mode("warn" if step else "default")
        recwarn.clear()
        warnings.simplefilter("always")  # also several of one line
        training_step(head, batch)
    torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in recwarn if "synchroniz" in str(warning.message)]
    assert len(waits) == copies(name), waits
