"""Loads and saves models."""

from pathlib import Path

import torch

from densevit.errors import DensevitError
from densevit.inference.predictor import Predictor, dense_model
from densevit.model import DenseModel
from densevit.weights import model_file


def load(source: str | Path, device: str | torch.device | None = None) -> Predictor:
    """The model of a run folder or a model file, in evaluation mode.

    device: "cuda", "cuda:1", "mps", "cpu" ...; "auto": an accelerator if there is one; None: the CPU.
    Raises WeightsError if there is no complete model.
    """
    target = device_of(device)
    return Predictor(*model_file.load(source)).to(target)


def save(model: Predictor | DenseModel, path: str | Path) -> None:
    """Writes a model file, which `load` takes: the weights, the classes, and the config or the model's sections.

    Raises WeightsError for a DenseModel whose plugins and options are not known.
    """
    model_file.save(dense_model(model), path, model.config if isinstance(model, Predictor) else None)


def device_of(name: str | torch.device | None) -> torch.device:
    """The device of this name. Raises DensevitError if it is not available."""
    if name is None:
        return torch.device("cpu")
    if str(name) == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    if str(name).partition(":")[0] == "meta":
        raise DensevitError("device meta computes nothing. Leave it out to use an available device.")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises either for an unavailable device
        reason = str(error).splitlines()[0].rstrip(".")
        raise DensevitError(f"device {name}: {reason}. Leave it out to use an available device.") from None
