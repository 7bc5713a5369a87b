"""Loads models of any source, and saves them."""

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import torch

from densevit.config import Config, ModelSections
from densevit.errors import DensevitError, WeightsError
from densevit.inference.predictor import Predictor, dense_model
from densevit.model import DenseModel
from densevit.weights import checkpoint_io, converting, model_file

_DEVICE_FIX = 'Fix: device "auto" is an accelerator if there is one, else the CPU.'


class LoadedModel(NamedTuple):
    """A model in evaluation mode on the CPU.

    sections: the config, or those of a model saved without one. foreign: whether the weights are another project's, of
    which the config was derived: its data section has the sizes of the published recipe, but names no data of the
    user's.
    """

    model: DenseModel
    sections: Config | ModelSections
    foreign: bool

    @property
    def config(self) -> Config | None:
        """None if it was saved without one."""
        return self.sections if isinstance(self.sections, Config) else None


def load(source: str | Path, device: str | torch.device | None = None, trust: Collection[str] = ()) -> Predictor:
    """The predictor of a run folder, a model file, a checkpoint of another project, or `hf:ORG/NAME`.

    device: "cuda", "cuda:1", "mps", "cpu" ...; "auto": an accelerator if there is one; None: the CPU.
    trust: modules whose classes the file may name as `module:Class`. Installed plugins, and what the config.yaml of a
    run folder names, need no trust; no other code is imported, and none of the file is run.
    Raises WeightsError if there is no complete model, for a module that is not trusted, and for a backbone without
    heads.
    """
    target = device_of(device)
    loaded = load_any(source, trust)
    return Predictor(loaded.model, loaded.sections).to(target)


def load_any(source: str | Path, trust: Collection[str] = ()) -> LoadedModel:
    """The model of any source that `load` takes. Options that foreign weights do not determine are a warning."""
    if model_file.is_model_file(source):
        return LoadedModel(*model_file.load(source, trust), foreign=False)
    checkpoint = checkpoint_io.read(source)
    if checkpoint.header.get("format") == "densevit":  # published
        own = model_file.from_state(checkpoint.tensors, checkpoint.header, str(source), trust)
        return LoadedModel(*own, foreign=False)
    if {"backbone", "heads"} <= {name.partition(".")[0] for name in checkpoint.tensors}:
        file = f"{source}/model.safetensors" if Path(source).expanduser().is_dir() else source
        raise WeightsError(
            f"{file}: a checkpoint of {len(checkpoint.tensors)} tensors without classes and config: it has no densevit "
            f"header. Fix: name the run's folder or its model.safetensors; to train from these tensors, weights={file}."
        )
    found = converting.convert_checkpoint(checkpoint)
    if found.model is None or found.config is None:
        raise WeightsError(
            f"{source}: contains only a backbone ({found.section.name}), which predicts nothing. Fix: train a model on "
            f"it, with backbone.weights={source}, or build one with densevit.create_model."
        )
    if found.assumed:
        warnings.warn(
            f"{source}: assumed {', '.join(found.assumed)}, because the weights do not determine it. If that is wrong: "
            f"densevit convert {source} OUT section.key=value, and use OUT.",
            stacklevel=3,
        )
    return LoadedModel(found.model, found.config, foreign=True)


def save(model: Predictor | DenseModel, path: str | Path) -> None:
    """Writes a model file, which `load` takes: the weights, the classes, and the config or what builds the model, with
    the inference options of a predictor. A replaced `resize` is not written.

    Raises WeightsError for a DenseModel whose plugins and options are not known.
    """
    model_file.save(dense_model(model), path, model.sections if isinstance(model, Predictor) else None)


def device_of(name: str | torch.device | None) -> torch.device:
    """The device of this name. Raises DensevitError if it is not available."""
    if name is None:
        return torch.device("cpu")
    if str(name) == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    if str(name).partition(":")[0] == "meta":
        raise DensevitError(f"device meta computes nothing. {_DEVICE_FIX}")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises either for an unavailable device
        reason = str(error).splitlines()[0].rstrip(".")
        raise DensevitError(f"device {name}: {reason}. {_DEVICE_FIX}") from None
