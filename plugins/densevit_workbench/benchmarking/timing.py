"""Latency, throughput and memory of inference, measured in rounds that are interleaved between the models."""

import os
import platform
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from densevit.errors import DensevitError, did_you_mean
from densevit.interfaces import Batch
from densevit.model import DenseModel, InferenceModel

MODES: dict[str, tuple[torch.dtype | None, bool]] = {  # dtype of autocast, whether compiled
    "fp32": (None, False),
    "bf16": (torch.bfloat16, False),
    "fp32-compiled": (None, True),
    "bf16-compiled": (torch.bfloat16, True),
}
WARM_UP = 3  # rounds that do not count; a compiled model compiles in the first
FEWEST_ROUNDS = 5
MOST_SECONDS = 20.0  # per model, for counted rounds


@dataclass(frozen=True)
class Timing:
    """Times of one batch, from uint8 images on the device to predictions, over `runs` runs.

    p50_ms, p95_ms: percentiles. spread: the interquartile range relative to the median. load: CPU cores that other
    processes occupied meanwhile, on average; None except on Linux. images_per_second: throughput at the median time.
    memory_mb: weights plus the peak that one batch adds, on a GPU; None on other devices.
    """

    p50_ms: float
    p95_ms: float
    spread: float
    load: float | None
    images_per_second: float
    memory_mb: float | None
    runs: int


def check_modes(modes: list[str]) -> list[str]:
    """Returns the modes. Raises DensevitError for an unknown mode."""
    for mode in modes:
        if mode not in MODES:
            raise DensevitError(f"benchmark: there is no mode {mode!r}.{did_you_mean(mode, MODES)}")
    return modes


class Forward:
    """One model that predicts one batch repeatedly, in one mode."""

    def __init__(
        self, model: InferenceModel, batch: int, size: tuple[int, int], device: torch.device, mode: str
    ) -> None:
        self.dtype, compiled = MODES[mode]
        self.device, self.count = device, batch
        self.model = model.to(device).eval() if isinstance(model, DenseModel) else model
        if compiled and isinstance(model, DenseModel):
            model.compile()
        generator = torch.Generator().manual_seed(0)
        height, width = model.padded_size(size)
        padding = torch.ones(batch, height, width, dtype=torch.bool)
        padding[:, : size[0], : size[1]] = False
        images = model.blank_images(batch, (height, width))
        images = torch.randint(0, 256, images.shape, generator=generator, dtype=torch.uint8).to(images.dtype)
        self.batch: Batch = {
            "images": images.to(device),
            "padding_mask": padding.to(device),
            "targets": [{"image_id": i, "size": size, "original_size": size, "focal": 1.0} for i in range(batch)],
        }

    def __call__(self) -> None:
        low: AbstractContextManager[Any] = torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()
        if not isinstance(self.model, DenseModel):
            self.model.infer(self.batch)
            return
        with torch.no_grad():
            with low:
                outputs = self.model(self.batch)
            self.model.predictions(outputs, self.batch["targets"])

    def seconds(self) -> float:
        _wait(self.device)
        start = time.perf_counter()
        self()
        _wait(self.device)
        return time.perf_counter() - start

    def peak_memory(self) -> float | None:
        """The `memory_mb` of a `Timing`."""
        if self.device.type != "cuda" or not isinstance(self.model, DenseModel):
            return None
        _wait(self.device)
        before = torch.cuda.memory_allocated(self.device)  # includes the other models of the benchmark
        torch.cuda.reset_peak_memory_stats(self.device)
        self()
        _wait(self.device)
        weights = sum(x.numel() * x.element_size() for x in [*self.model.parameters(), *self.model.buffers()])
        return (torch.cuda.max_memory_allocated(self.device) - before + weights) / 1e6


def interleaved(runs: Mapping[str, Forward], rounds: int) -> tuple[dict[str, Timing], dict[str, Exception]]:
    """Times the models one after another in each round, so that other load slows all of them equally.

    Rounds begin with different models. After the warm-up come `rounds` rounds, or as many as fit into MOST_SECONDS per
    model, but at least FEWEST_ROUNDS. Returns timings, and the errors of failed models.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    errors: dict[str, Exception] = {}
    memory: dict[str, float | None] = {}
    start, busy = 0.0, None
    for number in range(WARM_UP + rounds):
        names = [name for name in runs if name not in errors]
        if number == WARM_UP:
            start, busy = time.perf_counter(), _busy_seconds()
        if number >= WARM_UP + FEWEST_ROUNDS and time.perf_counter() - start > MOST_SECONDS * len(names):
            break
        first = number % max(1, len(names))
        for name in [*names[first:], *names[:first]]:
            try:
                took = runs[name].seconds()
                if number == WARM_UP - 1:
                    memory[name] = runs[name].peak_memory()
            except Exception as error:  # from a plugin, or out of memory
                errors[name] = error
                continue
            if number >= WARM_UP:
                seconds[name].append(took)
    after, elapsed = _busy_seconds(), time.perf_counter() - start
    load = None if busy is None or after is None else max(0.0, (after - busy) / elapsed)
    return {
        name: timing(took, runs[name].count, memory[name], load) for name, took in seconds.items() if name not in errors
    }, errors


def timing(seconds: list[float], batch: int, memory: float | None, load: float | None) -> Timing:
    """Percentiles of the times of several runs."""
    p25, p50, p75, p95 = (float(x) for x in np.percentile(seconds, (25, 50, 75, 95)))
    return Timing(1e3 * p50, 1e3 * p95, (p75 - p25) / p50, load, batch / p50, memory, len(seconds))


def _busy_seconds() -> float | None:
    """CPU time of all other processes since the start of the machine, in seconds; None except on Linux."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, *interrupts = map(int, file.readline().split()[1:9])
    except OSError:
        return None
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK") - time.process_time()


def device_name(device: torch.device) -> str:
    """The name of a device, such as "NVIDIA A100" or "cpu (x86_64)"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()})"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
