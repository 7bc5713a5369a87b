"""Detection of non-finite losses and gradients: training stops before the update, or skips the step.

Each optimiser step has a flag on the device: whether the loss of one of its batches, or the norm of the gradients, is
not finite, in any process. On the CPU it is read before the update. On a GPU, reading it would synchronise. There the
fused Adam and AdamW take the flag as `found_inf`, as from a gradient scaler, and skip the update if it is set; the flag
is copied to the host asynchronously and read one step later. Other optimisers on a GPU synchronise.

With 16-mixed, the gradient scaler skips steps whose gradients overflow and lowers its scale, so only a non-finite loss
and a scale that is too small are faults.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from rich import get_console
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from densevit import config as configs
from densevit.errors import TrainingError, counted, one_line
from densevit.interfaces import Batch
from densevit.losses.distributed import process_count
from densevit.training.loop import fault_files
from densevit.training.loop.dense_module import DenseModule
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
    training: list[torch.nn.Module]
    buffers: list[tuple[Tensor, Tensor]]
    batches: list[Batch] = field(default_factory=list)
    terms: list[dict[str, Tensor]] = field(default_factory=list)


class NonFinite(lightning.Callback):
    """Stops training at a non-finite loss or gradient, or skips the step.

    It must precede the callbacks that save, so that no checkpoint is written after such a step.

    folder: the run folder, for `faults/step_*.pt`, which `densevit replay` repeats. skip: skips such steps: weights,
    buffers and the optimiser's state are unchanged, and the schedule continues. skipped: the number of skipped steps.
    """

    def __init__(self, folder: Path, skip: bool = False) -> None:
        self.folder, self.skip = folder, skip
        self._step: _Step | None = None
        self._pending: list[tuple[_Step, Tensor, Any]] = []  # a step, its flag on the host, and the event of the copy
        self._flag: Tensor | None = None  # 1 if a loss of this step is not finite
        self._found: Tensor | None = None  # 1 once a step was not finite
        self._skipped: Tensor | None = None
        self._restored = 0

    @property
    def skipped(self) -> int:
        return self._restored + (0 if self._skipped is None else int(self._skipped))

    def batch(self) -> str:
        """Describes the current batch by the number and size of its images; "" between two steps."""
        if self._step is None or not self._step.batches:
            return ""
        images = self._step.batches[-1]["images"]
        return f"{len(images)} images of {images.shape[2]}x{images.shape[3]}"

    # ---- the step ----

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, DenseModule)
        self._trainer, self._module = trainer, pl_module
        self._step, self._pending = None, []
        self._flag, self._found, self._skipped = (torch.zeros((), device=pl_module.device) for _ in range(3))
        pl_module.before_update = self.before_update

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if self._step is None:
            training = [module for module in pl_module.modules() if module.training]
            buffers = [(x, x.detach().clone()) for module in training for x in module.buffers(recurse=False)]
            self._step = _Step(trainer.global_step + 1, random_state(pl_module.device), training, buffers)
        self._step.batches.append(self._module.host_batch or batch)  # on the CPU

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: Tensor
    ) -> None:
        assert self._step is not None and self._flag is not None
        self._step.terms.append(self._module.terms)
        self._flag = torch.maximum(self._flag, _is_broken(loss.detach()))

    def before_update(self, optimizer: Optimizer) -> None:
        """Checks the step; called when the gradients of an optimiser step are complete. Sets the module's
        `gradient_norm` unless gradient clipping has set it."""
        assert self._step is not None and self._flag is not None and self._found is not None
        step, flag = self._step, self._flag
        self._step, self._flag = None, torch.zeros_like(flag)
        scaler = self._trainer.scaler
        norm = self._module.gradient_norm
        if norm is None:
            norm = self._module.gradient_norm = self._norm()
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

    def _norm(self) -> Tensor:
        gradients = [p.grad for p in self._module.parameters() if p.grad is not None]
        if not gradients:
            return torch.zeros((), device=self._module.device)
        return full_tensor(torch.nn.utils.get_total_norm(gradients))

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
        self._read(later=1)

    def _read(self, later: int = 0) -> None:
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

    # ---- all pending flags are read before a checkpoint or a validation ----

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._read()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._read()
        if self.skipped and trainer.is_global_zero:
            get_console().print(
                f"{counted(self.skipped, 'step')} of {trainer.global_step:,} skipped because of a non-finite loss or "
                "gradient (trainer.non_finite)."
            )

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._read()

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped} if self.skip else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = int(state_dict.get("skipped", 0))

    # ---- the report ----

    def _stop(self, step: _Step, reason: str = "") -> None:
        """Finds the layer, saves the step, and raises TrainingError; the processes other than rank 0 exit."""
        module, rank, count = self._module, self._trainer.global_rank, process_count()
        module.zero_grad(set_to_none=True)  # frees memory for the repetition
        _restore(step)
        terms = [{name: float(term) for name, term in terms.items()} for terms in step.terms]
        broken = next((i for i, found in enumerate(terms) if not _are_finite(found)), None)
        layer, layer_text = self._layer(step)
        _restore(step)
        report: dict[str, Any] = {
            "rank": rank,
            "layer": layer_text,
            "terms": terms[broken or 0] if terms else {},
            "images": [image for batch in step.batches for image in image_ids(batch)],
            "concerned": bool(layer) or broken is not None,
        }
        reports: list[Any] = [report]
        if count > 1:
            reports = [None] * count
            distributed.all_gather_object(reports, report)
        concerned = [r for r in reports if r["concerned"]] or reports[:1]
        state_dict = _gathered(module.state_dict())  # in all processes: sharded weights are gathered
        files = {r["rank"]: self._file(step.number, r["rank"]) for r in concerned}
        problem = ""
        if rank in files:
            try:
                self._write(files[rank], step, state_dict, layer)
            except (OSError, RuntimeError) as error:  # torch raises its own error on a full disk
                problem = f"{files[rank]} cannot be written: {one_line(error)}."
        if rank:
            sys.exit(_EXIT_CODE)
        raise TrainingError(self._message(step.number, concerned, files, reason, problem))

    def _layer(self, step: _Step) -> tuple[str, str]:
        """Repeats the step in this process. Returns the finding, "" if all values are finite, and its text for the
        report."""
        device = self._module.device
        if any(isinstance(p, DTensor) for p in self._module.parameters()):
            return "", "A repetition of the saved step finds the layer"  # sharded weights need all processes
        try:
            with torch.inference_mode(False), self._trainer.precision_plugin.forward_context():
                module = self._module
                batches = [module.transfer_batch_to_device(batch, device, 0) for batch in step.batches]
                found = find_in_batches(module.model, module.method, batches, step.random_state, device)
        except Exception as error:  # such as out of memory: the report is more important
            return "", f"A repetition of the step failed: {one_line(error).rstrip('.')}"
        return (str(found), str(found)) if found.what else ("", "In a repetition of the step, all values are finite")

    def _file(self, number: int, rank: int) -> Path:
        return self.folder / "faults" / f"step_{number:08d}{f'_rank{rank}' if process_count() > 1 else ''}.pt"

    def _write(self, path: Path, step: _Step, state_dict: dict[str, Tensor], reported: str) -> None:
        module = self._module
        content = {
            "step": step.number,
            "reported": reported,
            "config": "" if module.config is None else configs.dump(module.config),
            "classes": {name: [asdict(c) for c in classes] for name, classes in module.model.classes.items()},
            "precision": str(self._trainer.precision),
            "state_dict": state_dict,
            "batches": [
                {
                    **{key: value for key, value in batch.items() if key != "step_targets"},
                    "targets": [{k: v for k, v in target.items() if k != "truth"} for target in batch["targets"]],
                }
                for batch in step.batches
            ],
            "random_state": step.random_state,
        }
        fault_files.write(path, content)

    def _message(
        self, number: int, reports: Sequence[dict[str, Any]], files: dict[int, Path], reason: str, problem: str
    ) -> str:
        parts = [f"Optimiser step {number:,}: {reason or 'the loss or a gradient is not finite'}."]
        for report in reports:
            process = f", in process {report['rank']}" if process_count() > 1 else ""
            terms = ", ".join(f"{name} {value:.4g}" for name, value in report["terms"].items())
            images = ", ".join(map(repr, report["images"][:16])) + (" ..." if len(report["images"]) > 16 else "")
            parts.append(f"{report['layer']}{process}. Losses: {terms}. Images: {images}.")
            if not (problem and report["rank"] == 0):
                parts.append(f"The step is saved; densevit replay {files[report['rank']]} repeats it.")
        if problem:
            parts.append(problem)
        parts.append(
            "Fix: lower optim.lr, set optim.warmup or trainer.clip_grad_norm, check these images, or skip such steps "
            "with trainer.non_finite=skip."
        )
        return " ".join(parts)


def _restore(step: _Step) -> None:
    """Restores the buffers and training modes before the step; a validation may have started."""
    for buffer, before in step.buffers:
        buffer.copy_(before)
    for module in step.training:
        module.training = True


def _gathered(state: dict[str, Any]) -> dict[str, Any]:
    return {name: full_tensor(x).cpu() if isinstance(x, DTensor) else x for name, x in state.items()}


def _is_broken(x: Tensor) -> Tensor:
    """Returns 1 if x is not finite, else 0, on its device."""
    return (~full_tensor(x).isfinite()).float()


def _are_finite(terms: dict[str, float]) -> bool:
    return all(torch.tensor(value).isfinite() for value in terms.values())


def _skips_itself(optimizer: Any) -> bool:
    """Whether the optimiser's kernels on a GPU skip the update if `found_inf` is set."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):  # SGD would leave its first momentum undefined
        return False
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return all(group["fused"] for group in optimizer.param_groups) and all(
        p.is_cuda and not isinstance(p, DTensor) for p in parameters
    )
