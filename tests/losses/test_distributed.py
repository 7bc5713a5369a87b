"""Losses and gradients of a batch split over two processes equal those of one process."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, distributed

from densevit.interfaces import IGNORE, Class, Head, Targets
from densevit.losses.context import LossContext
from densevit.losses.depth import silog
from densevit.losses.distributed import cpu_copy_of, process_count, with_cpu_copy
from densevit.losses.relative_depth import gradient_matching, robust_error, scale_and_shift_invariant
from densevit.losses.segmentation import cross_entropy, dice, hard_pixels
from densevit.set_prediction import mask_criterion, mask_matching, mask_segments
from densevit.set_prediction.transformer import Transformer
from densevit.targets import RunLengthMasks
from densevit_heads.box_query_detr import BoxQueryDetr
from densevit_heads.box_query_detr.extensions import Extensions
from densevit_heads.detr import Detr
from densevit_heads.mask2former import Mask2FormerInstance
from densevit_heads.mask2former.pixel_decoder import MaskTransformer, PixelDecoderOptions
from tests.training.process_groups import in_two_processes, linux

SHARES = [[0, 1, 3], [2]]  # images of each process; the second has no object
CASES: dict[str, tuple[dict[str, Any], list[int]]] = {  # the head's options, and objects an image
    "softmax": ({}, [3, 0, 0, 2]),
    "one object": ({}, [1, 0, 0, 0]),  # half an object a process
    "mal": ({"classification": "mal", "extensions": Extensions(two_stage=True, position_bias=True)}, [3, 0, 0, 2]),
    "denoising": ({"extensions": Extensions(denoising=2)}, [3, 0, 0, 2]),
    "contrastive denoising": (
        {"extensions": Extensions(contrastive_denoising=7), "classification": "varifocal"},
        [3, 0, 0, 2],
    ),
    "no object, contrastive denoising": ({"extensions": Extensions(contrastive_denoising=7)}, [0, 0, 0, 0]),
    "dense": ({"classification": "mal", "extensions": Extensions(dense_loss=1.5)}, [0, 0, 0, 1]),
    "masks": ({"num_points": 64, "semantic_loss": 2.0}, [3, 0, 0, 2]),
    "no mask": ({"num_points": 64, "semantic_loss": 2.0}, [0, 0, 0, 0]),
}


# The ignored images of the label maps.
MAPS = {"labelled maps": [], "a process without a label": [2], "no label": [0, 1, 2, 3]}


def same_points(rows: int, num_points: int, *args: Any) -> Tensor:
    """The same points for all masks, however they are distributed."""
    return torch.rand(1, num_points, 2, generator=torch.Generator().manual_seed(num_points)).expand(rows, -1, -1)


def losses_of(case: str, images: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss terms of some images, and the gradients of their sum."""
    options, counts = CASES[case]
    torch.manual_seed(0)
    classes = [Class(name, i, (0, 0, 0)) for i, name in enumerate("abc")]
    head: Head
    if "num_points" in options:
        transformer, pixel_decoder = MaskTransformer(64, 2, 2, 24), PixelDecoderOptions(1, 24)
        head = Mask2FormerInstance((6,), (8,), classes, 6, transformer, pixel_decoder, **options)
    else:
        kind = BoxQueryDetr if options else Detr
        head = kind((6,), (8,), classes, 6, Transformer(16, 2, 1, 2, 24, dropout=0.0), **options)
        if getattr(head, "denoising", None) is not None:  # the same queries in one process and in two
            head.denoising.label_noise = head.denoising.box_noise = 0.0
    cells = 16 if "num_points" in options else 4  # of each side of the feature; its stride is 8
    features = torch.randn(4, 6, cells, cells)
    targets: list[Targets] = []
    for count in counts:
        low = 20 * torch.rand(count, 2)
        boxes = torch.cat([low, low + 3 + 7 * torch.rand(count, 2)], dim=1)
        targets.append({"boxes": boxes, "labels": torch.randint(3, (count,)), "size": (8 * cells, 8 * cells)})
        if "num_points" in options:
            size = (8 * cells, 8 * cells)
            targets[-1]["masks"] = RunLengthMasks.from_dense(torch.rand(count, *size) < 0.5, size)
    mask, chosen = torch.zeros(len(images), 8 * cells, 8 * cells, dtype=torch.bool), [targets[i] for i in images]
    with ExitStack() as stack:
        for module in (mask_segments, mask_matching, mask_criterion):
            stack.enter_context(mock.patch.object(module, "random_points", same_points))
        losses = head.loss(head([features[images]], mask, chosen), chosen, LossContext.across_processes())
    sum(losses.values()).backward()
    return torch.stack(list(losses.values())).detach(), {n: p.grad for n, p in head.named_parameters()}


def losses_of_maps(case: str, images: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """`losses_of` for losses of label maps and depth maps."""
    torch.manual_seed(0)
    logits, labels = (2 * torch.randn(4, 5, 6, 7)).requires_grad_(), torch.randint(5, (4, 6, 7))
    labels[torch.rand(4, 6, 7) < 0.3] = IGNORE
    labels[MAPS[case]] = IGNORE
    x, y, context = logits[images], labels[images], LossContext.across_processes()
    prediction, depth = x[:, 0].exp(), (y != IGNORE) * (1.0 + y)
    terms = torch.stack(
        [
            cross_entropy(x, y, context, torch.tensor([1.0, 0.2, 3.0, 0.0, 0.7]), 0.1),
            cross_entropy(x, hard_pixels(x, y, 0.5, 3), context),
            dice(x, y, context),
            silog(prediction, depth, context),
            scale_and_shift_invariant(prediction, depth, context),
            gradient_matching(*robust_error(prediction, depth), context),
        ]
    )
    terms.sum().backward()
    return terms.detach(), {"logits": logits.grad}


def losses_in(case: str, images: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
    return (losses_of_maps if case in MAPS else losses_of)(case, images)


def run_process(rank: int, folder: Path) -> None:
    """One of two processes: its part of every case, with gradients averaged as in DDP."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=len(SHARES))
    assert process_count() == 2
    assert LossContext.across_processes().mean(torch.tensor([float(rank), 4.0])).tolist() == [0.5, 4.0]
    found = {}
    for case in (*CASES, *MAPS):
        losses, gradients = losses_in(case, SHARES[rank])
        for x in (losses, *gradients.values()):
            distributed.all_reduce(x)
            x /= len(SHARES)
        found[case] = (losses, gradients)
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
    """Losses and gradients of each case after both processes have run."""
    folder = tmp_path_factory.mktemp("processes")
    in_two_processes(lambda rank: run_process(rank, folder), folder)
    return torch.load(folder / "0.pt")


@linux
@pytest.mark.integration
@pytest.mark.parametrize("case", [*CASES, *MAPS])
def test_two_processes_match_one(case: str, shared: dict[str, tuple[Tensor, dict[str, Tensor]]]):
    losses, gradients = losses_in(case, [0, 1, 2, 3])
    shared_losses, shared_gradients = shared[case]
    torch.testing.assert_close(shared_losses, losses, rtol=1e-5, atol=1e-6)
    assert set(shared_gradients) == set(gradients)
    torch.testing.assert_close(shared_gradients, gradients, rtol=1e-4, atol=1e-6)


def test_a_copy_is_used_until_the_tensor_is_changed_in_place():
    values = torch.arange(3)
    x = with_cpu_copy(values.clone(), values)
    assert cpu_copy_of(x) is values and cpu_copy_of(values) is values
    changed = x + 1
    assert cpu_copy_of(changed) is changed
    x[0] = 7
    assert cpu_copy_of(x) is x
    with torch.inference_mode():
        inferred = with_cpu_copy(values.clone(), values)
    assert cpu_copy_of(inferred) is inferred
