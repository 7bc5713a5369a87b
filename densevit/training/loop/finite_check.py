"""The check of an optimiser step for finite values: training stops before the update, or skips the step.

Each optimiser step has a flag on the device: whether the loss of one of its batches, or the norm of the gradients, is
not finite, in any process. On the CPU it is read before the update. On a GPU, reading it would synchronise. There the
fused Adam and AdamW take the flag as `found_inf`, as from a gradient scaler, and skip the update if it is set; the flag
is copied to the host asynchronously and read one step later. Other optimisers on a GPU synchronise.

With 16-mixed, the gradient scaler skips steps whose gradients overflow and lowers its scale, so only a non-finite loss
and a scale that is too small are faults.
"""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as lightning
import torch
from rich import get_console
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from densevit.errors import TrainingError, counted, one_line
from densevit.interfaces import Batch, Method
from densevit.losses.distributed import process_count
from densevit.model import DenseModel
from densevit.training.loop.first_non_finite import find_in_batches, image_ids, random_state
from densevit.training.loop.sharding import full_tensor

_MIN_SCALE = 1e-4  # of fp16 gradient scaling, as fairseq's --min-loss-scale
_EXIT_CODE = 2  # of processes other than rank 0, which reports for all


@dataclass
class _Step:
    """The state that repeats an optimiser step. number: counted from 1. training: the modules in training mode.
    buffers: the buffers of these modules, each with its value before the step."""

    number: int
    random_state: dict[str, Tensor]
    training: list[nn.Module]
    buffers: list[tuple[Tensor, Tensor]]
    batches: list[Batch] = field(default_factory=list)
    terms: list[dict[str, Tensor]] = field(default_factory=list)


class FiniteCheck:
    """Stops training at a non-finite loss or gradient, or skips the step.

    `TrainingStep` calls `begin_batch` and `add_loss` for each batch, and `check` before the update.

    skip: skips such steps: weights, buffers and the optimiser's state are unchanged, and the schedule continues.
    """

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self._step: _Step | None = None
        self._pending: list[tuple[_Step, Tensor, Any]] = []  # a step, its flag on the host, and the event of the copy
        self._flag: Tensor | None = None  # 1 if a loss of this step is not finite
        self._found: Tensor | None = None  # 1 once a step was not finite
        self._skipped: Tensor | None = None
        self._skipped_before = 0  # in a resumed run

    @property
    def skipped(self) -> int:
        """The number of skipped steps."""
        return self._skipped_before + (0 if self._skipped is None else int(self._skipped))

    def describe_batch(self) -> str:
        """Describes the current batch by the number and size of its images; "" between two steps."""
        if self._step is None or not self._step.batches:
            return ""
        images = self._step.batches[-1]["images"]
        return f"{len(images)} images of {images.shape[2]}x{images.shape[3]}"

    # ---- a training ----

    def start(self, module: lightning.LightningModule, model: DenseModel, method: Method) -> None:
        """Begins a training of a module, which has this model and method."""
        self._module, self._trainer, self._model, self._method = module, module.trainer, model, method
        self._step, self._pending = None, []
        self._flag, self._found, self._skipped = (torch.zeros((), device=module.device) for _ in range(3))

    def resume(self, skipped: int) -> None:
        """Sets the number of steps that a resumed run has skipped."""
        self._skipped_before = skipped

    def finish(self) -> None:
        """Reads all flags and prints the number of skipped steps."""
        self.read()
        if self.skipped and self._trainer.is_global_zero:
            get_console().print(
                f"{counted(self.skipped, 'step')} of {self._trainer.global_step:,} skipped because of a non-finite "
                "loss or gradient (trainer.non_finite)."
            )

    # ---- the step ----

    def begin_batch(self, batch: Batch) -> None:
        """Keeps what repeats the step. batch: the batch, on the CPU."""
        if self._step is None:
            training = [module for module in self._module.modules() if module.training]
            buffers = [(x, x.detach().clone()) for module in training for x in module.buffers(recurse=False)]
            number = self._trainer.global_step + 1
            self._step = _Step(number, random_state(self._module.device), training, buffers)
        self._step.batches.append(batch)

    def add_loss(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Adds the loss of a batch. terms: its terms, for the report."""
        assert self._step is not None and self._flag is not None
        self._step.terms.append(terms)
        self._flag = torch.maximum(self._flag, _is_broken(loss.detach()))

    def stop_or_skip(self, optimizer: Optimizer, norm: Tensor) -> None:
        """Stops the training or skips the step if it is not finite, before its update. norm: the norm of all gradients
        before clipping."""
        assert self._step is not None and self._flag is not None and self._found is not None
        step, flag = self._step, self._flag
        self._step, self._flag = None, torch.zeros_like(flag)
        scaler = self._trainer.scaler
        if scaler is None:
            flag = torch.maximum(flag, _is_broken(norm))
        if process_count() > 1:
            distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        if scaler is None and _skips_itself(optimizer):
            self._update_later(optimizer, step, flag)
        elif bool(flag):
            if not self.skip:
                self._stop(step)
            optimizer.zero_grad(set_to_none=True)  # torch's optimisers leave parameters without gradients unchanged
            for buffer, before in step.buffers:
                buffer.copy_(before)
            self._count(flag)
        elif scaler is not None and step.number % self._trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check_scale(scaler.get_scale(), step)

    def _check_scale(self, scale: float, step: _Step) -> None:
        if scale < _MIN_SCALE:
            self._stop(step, f"the gradients overflow in fp16, even at a loss scale of {scale:.2g}")

    def _update_later(self, optimizer: Any, step: _Step, flag: Tensor) -> None:
        """Lets the optimiser's kernels skip the update, and reads the flag of the previous step."""
        if self.skip:
            optimizer.found_inf = flag
            for buffer, before in step.buffers:
                buffer.copy_(torch.where(flag.bool(), before, buffer))
            self._count(flag)
            return
        assert self._found is not None
        self._found = torch.maximum(self._found, flag)  # later updates are skipped too
        optimizer.found_inf = self._found
        host = torch.zeros((), pin_memory=flag.is_cuda).copy_(self._found, non_blocking=True)
        event = torch.cuda.Event() if flag.is_cuda else None
        if event is not None:
            event.record()
        self._pending.append((step, host, event))
        self.read(later=1)

    def read(self, later: int = 0) -> None:
        """Stops if the flag of a step is set. The latest `later` steps, which may still be running, are not read."""
        while len(self._pending) > later:
            step, host, event = self._pending.pop(0)
            if event is not None:
                event.synchronize()
            if bool(host):
                self._stop(step)

    def _count(self, flag: Tensor) -> None:
        assert self._skipped is not None
        self._skipped = self._skipped + flag

    # ---- the report ----

    def _stop(self, step: _Step, reason: str = "") -> None:
        """Finds the layer and raises TrainingError; the processes other than rank 0 exit."""
        self._module.zero_grad(set_to_none=True)  # frees memory for the repetition
        _restore(step)
        terms = [{name: float(term) for name, term in terms.items()} for terms in step.terms]
        broken = next((i for i, found in enumerate(terms) if not _are_finite(found)), None)
        found, layer = self._layer(step)
        _restore(step)
        report: dict[str, Any] = {
            "rank": self._trainer.global_rank,
            "layer": layer,
            "terms": terms[broken or 0] if terms else {},
            "images": [image for batch in step.batches for image in image_ids(batch)],
            "concerned": found or broken is not None,
        }
        reports: list[Any] = [report]
        if process_count() > 1:
            reports = [None] * process_count()
            distributed.all_gather_object(reports, report)
        if self._trainer.global_rank:
            sys.exit(_EXIT_CODE)
        raise TrainingError(_message(step.number, [r for r in reports if r["concerned"]] or reports[:1], reason))

    def _layer(self, step: _Step) -> tuple[bool, str]:
        """Repeats the step in this process. Returns whether a value is not finite, and the text for the report."""
        if any(isinstance(p, DTensor) for p in self._module.parameters()):
            return False, "The layer is not searched for in a sharded model"  # all processes would have to repeat it
        device = self._module.device
        try:
            with torch.inference_mode(False), self._trainer.precision_plugin.forward_context():
                batches = [self._module.transfer_batch_to_device(batch, device, 0) for batch in step.batches]
                found = find_in_batches(self._model, self._method, batches, step.random_state, device)
        except Exception as error:  # such as out of memory: the report is more important
            return False, f"A repetition of the step failed: {one_line(error).rstrip('.')}"
        return bool(found.what), str(found) if found.what else "In a repetition of the step, all values are finite"


def _message(number: int, reports: Sequence[dict[str, Any]], reason: str) -> str:
    parts = [f"Optimiser step {number:,}: {reason or 'the loss or a gradient is not finite'}."]
    for report in reports:
        process = f", in process {report['rank']}" if process_count() > 1 else ""
        terms = ", ".join(f"{name} {value:.4g}" for name, value in report["terms"].items())
        images = ", ".join(map(repr, report["images"][:16])) + (" ..." if len(report["images"]) > 16 else "")
        parts.append(f"{report['layer']}{process}. Losses: {terms}. Images: {images}.")
    parts.append(
        "Fix: lower optim.lr, set optim.warmup or trainer.clip_grad_norm, check these images, or skip such steps with "
        "trainer.non_finite=skip."
    )
    return " ".join(parts)


def _restore(step: _Step) -> None:
    """Restores the buffers and training modes before the step; a validation may have started."""
    for buffer, before in step.buffers:
        buffer.copy_(before)
    for module in step.training:
        module.training = True


def gradient_norm(module: nn.Module) -> Tensor:
    """Computes the norm of all gradients of a module."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if not gradients:
        return torch.zeros((), device=next(module.parameters()).device)
    return full_tensor(torch.nn.utils.get_total_norm(gradients))


def _is_broken(x: Tensor) -> Tensor:
    """Returns 1 if x is not finite, else 0, on its device."""
    return (~full_tensor(x).isfinite()).float()


def _are_finite(terms: dict[str, float]) -> bool:
    return all(torch.tensor(value).isfinite() for value in terms.values())


def _is_adam(optimizer: Any) -> bool:
    """Whether an optimiser has the `step` of torch's Adam or AdamW, which torch may have wrapped."""
    step = inspect.unwrap(type(optimizer).step)
    return any(step is inspect.unwrap(kind.step) for kind in (torch.optim.Adam, torch.optim.AdamW))


def _skips_itself(optimizer: Any) -> bool:
    """Whether the optimiser's kernels on a GPU skip the update if `found_inf` is set."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if not _is_adam(optimizer):  # SGD would leave its first momentum undefined
        return False
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return all(group["fused"] for group in optimizer.param_groups) and all(
        p.is_cuda and not isinstance(p, DTensor) for p in parameters
    )
