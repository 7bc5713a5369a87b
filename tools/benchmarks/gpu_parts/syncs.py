"""Part 4: where a training step waits for the GPU, by lines, and the share of time in which the GPU works."""

import os
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from torch.profiler import ProfilerActivity, profile

import densevit
from gpu_parts.results import Case, Setting
from gpu_parts.training import Step, fit, recipe

RECIPES = ("detr_swin", "detector", "setr_vit", "dpt_swin", "scenes/dino_detr_swin", "scenes/dfine_swin",
           "scenes/instance_swin", "scenes/multitask_swin")  # fmt: skip
SMALL = ("data.image_size=64", "data.batch_size=2")
STEPS = 4


def cases(setting: Setting) -> list[Case]:
    names = RECIPES[:1] if setting.smoke else RECIPES
    return [
        *((f"losses and update, {name}", partial(_step, name)) for name in names),
        *((f"training with its callbacks, {name}", partial(_training, name)) for name in names[:3]),
        *((f"profile, {name}", partial(_profile, name)) for name in names[:4]),
    ]


class Waits:
    """Within the context, counts operations that wait for the device, by the line that calls them."""

    def __init__(self, setting: Setting) -> None:
        self.cuda, self.lines = setting.device.type == "cuda", Counter[str]()

    def __enter__(self) -> "Waits":
        self._caught = warnings.catch_warnings(record=True)
        self._messages = self._caught.__enter__()
        warnings.simplefilter("always")
        if self.cuda:
            torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(self, *error: object) -> None:
        if self.cuda:
            torch.cuda.set_sync_debug_mode("default")
        self._caught.__exit__(None, None, None)
        root = str(Path(densevit.__file__).parents[1]) + os.sep
        for message in self._messages or []:
            if "synchroniz" in str(message.message):
                self.lines[f"{message.filename.removeprefix(root)}:{message.lineno}"] += 1

    def values(self, steps: int) -> dict[str, Any]:
        lines = "\n".join(f"{count / steps:.2g} x {line}" for line, count in self.lines.most_common())
        return {"waits a step": self.lines.total() / steps, "output": lines or "none"}


def _step(name: str, setting: Setting) -> dict[str, Any]:
    """Forward pass, losses, backward pass, clipping, AdamW."""
    model, batch = recipe(name, *(SMALL if setting.smoke else ()))
    step = Step.of(model, batch, "fp32" if setting.smoke else "bf16", setting.device)
    step(), step()  # chooses kernels
    with Waits(setting) as waits:
        for _ in range(STEPS):
            step()
    return waits.values(STEPS)


class WaitsOfTraining(lightning.Callback):
    """Counts the waits of `STEPS` steps in the middle of a run. Must be the last callback."""

    def __init__(self, setting: Setting) -> None:
        self.waits = Waits(setting)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 5:
            self.waits.__enter__()
        elif batch_idx == 5 + STEPS:
            self.waits.__exit__()


def _training(name: str, setting: Setting) -> dict[str, Any]:
    """A training with its loader, the check of finite values, the optimiser of the recipe and the callbacks."""
    keys = ["trainer.max_images=null", "trainer.max_steps=12", "data.num_workers=0",
            "data.train_length=200", "data.val_length=4",
            "trainer.evaluations=1", *(SMALL if setting.smoke else ())]  # fmt: skip
    callback = WaitsOfTraining(setting)
    fit(setting, name, keys, callback)
    return callback.waits.values(STEPS)


def _profile(name: str, setting: Setting) -> dict[str, Any]:
    """The share of a step's time in which kernels run, their number, and the longest ones."""
    model, batch = recipe(name, *(SMALL if setting.smoke else ()))
    step = Step.of(model, batch, "fp32" if setting.smoke else "bf16", setting.device)
    seconds = step.seconds(1, 0) if setting.smoke else step.seconds(10)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (setting.device.type == "cuda")
    with profile(activities=activities) as profiler:
        for _ in range(STEPS):
            step()
    events = profiler.key_averages()
    kernels = [event for event in events if event.self_device_time_total > 0]
    busy = sum(event.self_device_time_total for event in kernels) / STEPS / 1e6
    count = sum(event.count for event in kernels) / STEPS
    table = events.table(sort_by="self_device_time_total" if kernels else "self_cpu_time_total", row_limit=12,
                         max_name_column_width=60)  # fmt: skip
    return {"ms": 1e3 * seconds, "GPU works": busy / seconds, "kernels a step": count, "output": table}
