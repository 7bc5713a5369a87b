"""Stops training at the first optimiser step with a loss or gradient that is not finite, before its update."""

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves  # noqa: PLC2701  # torch has no public name for it

from densevit.errors import TrainingError, listed
from densevit.losses.distributed import gather_objects, process_count
from densevit.training.loop.step_record import StepRecord

_MIN_SCALE = 1e-4  # of fp16's gradient scale, as fairseq's --min-loss-scale
_STEPS = 50  # between two reads of the scale, which wait for the GPU


class FiniteCheck:
    """A flag on the device that stays set once the loss, or the norm of the gradients, is not finite in any process.

    The flag is read before the update. On a GPU, this would synchronise, so the fused Adam and AdamW take it as
    `found_inf`, as from a gradient scaler, and keep the weights unchanged while it is set; it is copied asynchronously
    and read one step later. `read` waits for the copy: before a validation, a checkpoint and the end.

    With 16-mixed, the scaler skips steps whose gradients overflow; faults are a loss that is not finite, and a scale
    that is too small.
    """

    def __init__(self) -> None:
        self._flag: Tensor | None = None
        self._unread: list[tuple[StepRecord, Tensor, Any]] = []  # the flag on the host, and the event of its copy

    def stop_unless_finite(self, optimizer: Any, record: StepRecord, scaler: torch.amp.GradScaler | None) -> None:
        """Raises TrainingError if this step, or on a GPU the previous step, is not finite. scaler: the scaler of
        16-mixed."""
        values = [record.loss] if scaler is not None else [record.loss, record.gradient_norm]
        broken = (~torch.stack([value.isfinite() for value in values]).all()).float()
        self._flag = broken if self._flag is None else torch.maximum(self._flag, broken)
        if process_count() > 1:
            distributed.all_reduce(self._flag, distributed.ReduceOp.MAX)
        if scaler is None and skips_itself(optimizer):
            # as `torch.amp.GradScaler.step` does: `step` reads this attribute, and has no argument for it
            optimizer.found_inf = self._flag
            host = torch.empty((), pin_memory=self._flag.is_cuda).copy_(self._flag, non_blocking=True)
            event = torch.cuda.Event() if self._flag.is_cuda else None
            if event is not None:
                event.record()
            self._unread.append((record, host, event))
            self.read(later=1)
        elif bool(self._flag):
            _stop(record)
        elif scaler is not None and record.number % _STEPS == 0 and (scale := scaler.get_scale()) < _MIN_SCALE:
            _stop(record, f"the gradients overflow in fp16, even at a loss scale of {scale:.2g}")

    def read(self, later: int = 0) -> None:
        """Raises TrainingError if the flag of a step is set. later: the number of latest steps to leave unread."""
        while len(self._unread) > later:
            record, host, event = self._unread.pop(0)
            if event is not None:
                event.synchronize()
            if bool(host):
                _stop(record)


def _stop(record: StepRecord, reason: str = "the loss or a gradient is not finite") -> None:
    """Raises TrainingError in rank 0, with the images of all processes; other ranks exit."""
    terms = ", ".join(f"{name} {float(term):.4g}" for name, term in record.terms.items())
    images = listed(map(repr, record.image_ids), 16, " ...")
    reports = [f"Losses: {terms}. Images: {images}."]
    if process_count() > 1:
        reports = gather_objects(f"Process {distributed.get_rank()}: {reports[0]}")
        if distributed.get_rank():
            raise SystemExit(2)
    raise TrainingError(
        f"Optimiser step {record.number:,}: {reason}. {' '.join(reports)} Fix: lower optim.lr, set optim.warmup or "
        "trainer.clip_grad_norm, or check these images; resuming the run with trainer.detect_anomaly=true names "
        "the layer."
    )


def skips_itself(optimizer: Any) -> bool:
    """Whether the optimiser's kernels skip the update while `found_inf` is set: torch's fused Adam or AdamW on a GPU.
    SGD would leave its first momentum undefined."""
    step = inspect.unwrap(type(optimizer).step)  # torch may have wrapped it
    if not any(step is inspect.unwrap(adam.step) for adam in (torch.optim.Adam, torch.optim.AdamW)):
        return False
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return all(group["fused"] for group in optimizer.param_groups) and all(
        p.is_cuda and not isinstance(p, DTensor) for p in parameters
    )


def detect_anomaly(module: nn.Module) -> None:
    """Makes the first module with an output, or an input gradient, that is not finite raise TrainingError.

    Each check waits for the device. Tensors without gradient are not checked: attention masks contain infinities.
    """
    for name, part in module.named_modules():
        part.register_forward_hook(partial(_check_module, f"{name} ({type(part).__name__})"))


def _check_module(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    for x in _tensors(output):
        _check_finite(f"output of {name}", x)
    for x in _tensors(inputs):
        x.register_hook(partial(_check_finite, f"gradient of the input of {name}"))


def _tensors(output: Any) -> list[Tensor]:
    """The tensors with gradient in the inputs or the output of a module."""
    return [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.requires_grad]


def _check_finite(what: str, x: Tensor) -> None:
    if not bool(x.isfinite().all()):
        raise TrainingError(
            f"trainer.detect_anomaly: the first value that is not finite is in the {what}, {x.dtype} {tuple(x.shape)}: "
            f"{int(x.isnan().sum()):,} NaN and {int(x.isinf().sum()):,} infinities of {x.numel():,} values."
        )
