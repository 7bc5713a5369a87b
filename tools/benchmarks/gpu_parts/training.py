"""Models and training steps of the parts, by the public API alone."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as lightning
import torch
from interleaved import seconds
from torch import Tensor, nn

import densevit
from densevit import config as configs
from densevit.model import build_from_sections, classes_by_head
from gpu_parts.results import Setting

DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # of autocast


def set_precision(precision: str) -> None:
    """Sets whether float32 products and convolutions round their inputs to TF32."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def moved(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with all tensors on a device. Run-length masks stay on the host."""
    targets = [
        {k: v.to(device) if isinstance(v, Tensor) else v for k, v in target.items()} for target in batch["targets"]
    ]
    return batch | {key: batch[key].to(device) for key in ("images", "padding_mask")} | {"targets": targets}


def recipe(name: str, *overrides: str, randomised: bool = False) -> tuple[Any, Any]:
    """The model of a shipped recipe on rendered scenes, with the first batch of its training, on the CPU.

    randomised: adds noise to all parameters, so that none is zero.
    """
    keys = ["data.num_workers=0", "data.train_length=16", "data.val_length=8", "trainer.accelerator=cpu", *overrides]
    config = configs.load(name, keys)
    torch.manual_seed(0)
    data = densevit.build_data(config)
    model = build_from_sections(config, classes_by_head(config, data.classes))
    if randomised:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model, next(iter(data.train_loader()))


def fit(setting: Setting, name: str, keys: Sequence[str], *callbacks: lightning.Callback) -> densevit.Run:
    """Trains a shipped recipe on the device, in a new folder, without loggers."""
    number = len(list(setting.folder.glob("run-*")))
    config = configs.load(name, [*keys, f"trainer.accelerator={setting.device.type}", "trainer.loggers=[]"])
    return densevit.fit(config, callbacks=callbacks, run_dir=setting.folder / f"run-{number}")


class Step:
    """A training step: forward pass, losses, backward pass, clipping of the gradients, and AdamW.

    compiled: whether torch.compile compiles the model.
    """

    def __init__(
        self, model: nn.Module, loss: Callable[[], Tensor], precision: str, device: torch.device, lr: float = 1e-5
    ) -> None:
        self.model, self.loss, self.precision, self.device = model, loss, precision, device
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, fused=precision != "fp16")
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    @classmethod
    def of(
        cls, model: Any, batch: dict[str, Any], precision: str, device: torch.device, compiled: bool = False
    ) -> "Step":
        model.to(device).train()
        batch = moved(batch, device)
        if compiled:
            model.compile()

        def loss() -> Tensor:
            return torch.stack(list(model.losses_of(model(batch), batch["targets"]).values())).sum()

        return cls(model, loss, precision, device)

    def __call__(self) -> Tensor:
        set_precision(self.precision)
        dtype = DTYPES[self.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            loss = self.loss()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], 0.1)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def seconds(self, rounds: int, warm_up: int = 3) -> float:
        """The median time of a step, waiting for the device after each. A further step must have a finite loss."""
        times = [seconds(self) for _ in range(warm_up + rounds)]
        if not (loss := self()).isfinite():
            raise RuntimeError(f"The loss is {loss.item()}.")
        return statistics.median(times[warm_up:])


def peak_gb(device: torch.device, reset: bool = False) -> float:
    """The peak of the GPU's allocated memory since the last reset, in GB. 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 1e9
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return peak
