"""What a run prints and derives from its config, model and data."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as lightning
import torch
from rich.console import Console

from densevit.config import Config
from densevit.data.build import Data
from densevit.errors import one_line
from densevit.evaluation import metrics_file
from densevit.inference.loading import load
from densevit.interfaces import Method
from densevit.model import DenseModel
from densevit.model.parameter_groups import method_parameters
from densevit.training.callbacks.stop_signals import StopSignals
from densevit.training.loop.budget import Budget
from densevit.training.loop.method import Supervised
from densevit.training.loop.optim import learning_rate
from densevit.training.run.drawn_images import draw_images
from densevit.training.run.errors import resume_command
from densevit.visualization.report import write_report
from densevit.visualization.tables import metrics_table


def derived_values(
    config: Config, model: DenseModel, method: Method, data: Data, trainer: lightning.Trainer, budget: Budget
) -> dict[str, str]:
    """Derived values, written to config.yaml as comments."""
    images, own = budget.images_per_step, method_parameters(model, method)
    values = {
        "training images": str(len(data.train)),
        "validation images": str(len(data.val)),
        "images per optimiser step": str(images),
        "optimiser steps": f"{budget.steps:,}, {budget.images / len(data.train):.2f} epochs",
        "learning rate": f"{learning_rate(config.optim, images):g}",
        "precision": str(trainer.precision),
        "feature channels and strides": f"{list(model.backbone.channels)} at {list(model.backbone.strides)}",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
    }
    if own:
        values["parameters of the method"] = f"{sum(p.numel() for p in own):,}"
    for name, classes in model.classes.items():
        values[f"classes of {name}"] = ", ".join(c.name for c in classes)
    return values


def announce(
    console: Console,
    config: Config,
    model: DenseModel,
    method: Method,
    data: Data,
    trainer: lightning.Trainer,
    folder: Path,
    budget: Budget,
) -> None:
    """Prints the model, the method unless it is supervised, the data, the budget and the devices."""
    heads = ", ".join(f"{name} ({section.name})" for name, section in config.heads.items())
    what = f"{config.backbone.name} -> {heads}" if heads else config.backbone.name
    how = "" if isinstance(method, Supervised) else f", method {config.method.name}"
    parameters = [*model.parameters(), *method_parameters(model, method)]
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    device = trainer.strategy.root_device
    hardware = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {torch.get_num_threads()} threads"
    )
    console.print(f"{what}{how}, {trained / 1e6:.2f} M trained parameters")
    size = "" if config.data.image_size is None else f"; image_size {config.data.image_size}"
    images = f"{len(data.train):,} training images, {len(data.val):,} validation images"
    console.print(f"{config.data.title}: {images}{size}")
    if data.val.division:
        console.print(data.val.division)
    console.print(budget.describe(len(data.train)))
    console.print(f"{trainer.world_size} x {hardware}, {trainer.precision}; writing to {folder}/")


def finish(
    console: Console,
    folder: Path,
    config: Config,
    data: Data,
    stopped: bool,
    indices: Mapping[int | str, int],
    signals: StopSignals,
    resume_with: str | None = None,
) -> None:
    """Writes the visualizations and the report, and prints the metrics and the files.

    What fails is a warning with the command that makes it again: the training is over and saved. A signal ends the
    drawing. indices: of the validation images in the data set, by image id. resume_with: as of `fit`.
    """
    files = [f"model: {folder / 'model.safetensors'}"]
    with _warning("The report was not written", f"densevit report {folder}"):
        write_report(folder)  # at first without visualizations, which take longer
        files.append(f"report: {folder / 'report.html'}")
    again = f"densevit evaluate {folder}"
    if config.heads:
        with _warning("The visualizations were not written", again), signals.interrupting():
            draw_images(load(folder), data, folder, indices)
            files.append(f"visualizations: {folder / 'predictions'}/")
        with _warning("The report was not written", f"densevit report {folder}"):
            write_report(folder)
    with _warning("The metrics cannot be read", again):
        metrics = metrics_file.read(folder / "metrics.json")
        if metrics:
            console.print(metrics_table(metrics), soft_wrap=False)
    console.print("   ".join(files))
    if stopped:
        console.print(f"Stopped. Resume with: {resume_with or resume_command(folder)}")


@contextmanager
def _warning(what: str, command: str) -> Iterator[None]:
    """Warns in place of an error. command: that repeats what failed."""
    try:
        yield
    except BrokenPipeError:  # stdout is closed, which is not of these files
        raise
    except Exception as error:  # of a plugin's drawing, a full disk, a damaged file, a signal
        warnings.warn(f"{what}: {one_line(error)}. To try again: {command}", stacklevel=3)
