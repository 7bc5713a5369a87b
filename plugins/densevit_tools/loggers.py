"""The files of a run for MLflow, W&B and TensorBoard: report and model as artifacts, visualizations as images."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from densevit.errors import one_line

_FILES = ("config.yaml", "metrics.json", "report.html", "model.safetensors")


def log_run_folder(loggers: Sequence[Any], folder: Path, step: int) -> None:
    """Logs a finished run folder to each logger of MLflow, W&B and TensorBoard, also of lightning.pytorch.

    step: the optimiser step. A failure, such as of a server that does not answer, is a warning.
    """
    for logger in loggers:
        for name in {base.__name__ for base in type(logger).__mro__} & _FUNCTIONS.keys():
            try:
                _FUNCTIONS[name](logger, folder, step)
            except Exception as error:  # of another library
                warnings.warn(
                    f"{folder} is complete, but {name} has not logged its files: {one_line(error)}", stacklevel=2
                )


def log_to_mlflow(logger: Any, folder: Path, step: int) -> None:
    """Logs a run folder to Lightning's MLFlowLogger; the visualizations below predictions/."""
    for file in _files(folder):
        logger.experiment.log_artifact(logger.run_id, str(file))
    for image in _images(folder):
        logger.experiment.log_artifact(logger.run_id, str(image), "predictions")


def log_to_wandb(logger: Any, folder: Path, step: int) -> None:
    """Logs a run folder to Lightning's WandbLogger, and ends W&B's run if it is one of the config: the next `fit` of a
    script begins another."""
    import wandb

    artifact = wandb.Artifact(f"run-{logger.experiment.id}", type="model")
    for file in _files(folder):
        artifact.add_file(str(file))
    logger.experiment.log_artifact(artifact)
    if images := [str(image) for image in _images(folder)]:
        logger.log_image("predictions", images, caption=[Path(image).name for image in images])
    if Path(logger.save_dir).absolute() == folder.absolute():
        logger.experiment.finish()


def log_to_tensorboard(logger: Any, folder: Path, step: int) -> None:
    """Adds the visualizations of a run to Lightning's TensorBoardLogger."""
    for image in _images(folder):
        logger.experiment.add_image(f"predictions/{image.stem}", np.asarray(Image.open(image)), step, dataformats="HWC")
    logger.experiment.flush()


def _files(folder: Path) -> Iterator[Path]:
    return (folder / name for name in _FILES if (folder / name).is_file())


def _images(folder: Path) -> list[Path]:
    return sorted(folder.glob("predictions/*.jpg"))


_FUNCTIONS = {"MLFlowLogger": log_to_mlflow, "TensorBoardLogger": log_to_tensorboard, "WandbLogger": log_to_wandb}
