"""Every head: the losses of accumulated batches are those of one large batch, and of that without counts."""

import functools
import inspect
from typing import Any

import pytest
import torch

from densevit import registry
from densevit.config import TrainerSection
from densevit.losses.context import step_context
from densevit_workbench.testing.head_checks import CHANNELS, STRIDES
from densevit_workbench.testing.head_fixtures import HeadBatch, HeadFixture
from tests.heads.cases import CASES

# The cases of the default set: one of each kind of loss.
IN_BRIEF = (
    "box_query_detr, all extensions", "box_query_detr, contrastive denoising", "rtdetr", "dfine", "rf_detr_instance",
    "detr_panoptic", "mask2former", "mask2former_instance", "setr, naive", "dpt", "dpt_segmentation",
)  # fmt: skip
OBJECTS = (3, 0, 4, 0, 0, 0, 1, 2)  # of each image: batches of two with 3, 4, 0 and 3
LABELLED = (True, True, True, True, True, False, True, True)
SIZE = (64, 64)
MATCHES = ("l1", "giou", "fgl", "auxiliary", "proposals", "denoising")
SEMANTIC = ("cross_entropy", "auxiliary")
EXCEPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "box_query_detr, all extensions": ("dense losses", ("dense",)),
    "box_query_detr_panoptic": ("dense losses", ("dense",)),
    "ddq": ("dense losses", ("dense",)),
    "one_stage": ("one_stage", ("label", "l1", "giou")),
    "box_query_detr, contrastive denoising": ("contrastive denoising", ("denoising",)),
    "dino": ("contrastive denoising", ("denoising",)),
    "rtdetr": ("contrastive denoising", ("denoising",)),
    "dfine": ("dfine", MATCHES),
    **dict.fromkeys(("gtr", "gtr_instance"), ("gtr", tuple(name for name in MATCHES if name != "proposals"))),
    "faster_rcnn": ("faster_rcnn", ("label", "box")),
    "fcos": ("fcos", ("label", "giou", "centerness")),
    "setr, naive": ("ohem_threshold", SEMANTIC),
    "setr, pup": ("class_weights: balanced", SEMANTIC),
    "dpt_segmentation": ("class_weights: balanced", (*SEMANTIC, "dice")),
}
"""Cases with losses whose divisors the head does not know before the forward pass: their word in the documentation of
`trainer.accumulate`, and the losses."""


def rand(*size: Any, generator: Any = None, device: Any = None, **_: Any) -> torch.Tensor:
    """The same numbers for each index of the first dimension, and in each call."""
    shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
    values = torch.empty(1, *shape[1:]).uniform_(0.0, 1.0, generator=torch.Generator().manual_seed(0))
    return values.expand(*shape).clone().to(device)


def part(batch: HeadBatch, images: slice) -> HeadBatch:
    return HeadBatch([x[images] for x in batch.features], batch.padding_mask[images], batch.targets[images])


@pytest.mark.parametrize(
    "name", [name if name in IN_BRIEF else pytest.param(name, marks=pytest.mark.integration) for name in CASES]
)
def test_losses_of_four_batches_of_two_are_those_of_one_of_eight(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    factory = functools.partial(registry.load("heads", case.head), **case.options)
    fixture = HeadFixture(factory, CHANNELS[: case.levels], STRIDES[: case.levels], case.reach)
    head = fixture.build().train()
    for module in head.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm | torch.nn.Dropout):
            module.eval()
    batch = fixture.batch(size=SIZE, images=[SIZE] * 8, objects=OBJECTS, labelled=LABELLED)
    drawn = {"rand": rand, "rand_like": lambda x: rand(*x.shape)}
    drawn["randint"] = lambda high, shape, device=None: torch.zeros(shape, dtype=torch.long)
    for function, same in drawn.items():
        monkeypatch.setattr(torch, function, same)

    def losses(batches: list[HeadBatch], counted: bool = True) -> dict[str, float]:
        counts = {"head": [head.loss_counts(one.targets) for one in batches]} if counted else {}
        context = step_context(counts, len(batches), 0, torch.device("cpu")).for_head("head")
        found = [head.loss(head(one.copies(), one.padding_mask, one.targets), one.targets, context) for one in batches]
        return {term: sum(float(one[term].detach()) for one in found) / len(found) for term in found[0]}

    expected = losses([batch])
    if name != "faster_rcnn":  # without counts it does not know that an image has no labels
        assert losses([batch], counted=False) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    found = losses([part(batch, slice(i, i + 2)) for i in range(0, 8, 2)])
    different = {t for t in expected if found[t] != pytest.approx(expected[t], rel=1e-4, abs=1e-5)}
    word, exceptions = EXCEPTIONS.get(name, ("", ()))
    assert different == set(exceptions)
    assert word in source(TrainerSection)


def source(section: type) -> str:
    """The source of a section, with the documentation of its keys, in one line."""
    return " ".join(inspect.getsource(section).split())
