"""Creates, loads and saves predictors."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from densevit.config import Config, ModelSections
from densevit.errors import DensevitError, WeightsError
from densevit.inference.file_model import FileModel, build
from densevit.inference.predictor import Predictor, dense_model
from densevit.inference.runtimes import is_exported, open_file
from densevit.model import DenseModel
from densevit.paths import user_path
from densevit.weights import checkpoint_io, converting, model_file
from densevit.weights.model_joining import on_backbone, read_part
from densevit.weights.pretrained_models import Classes, Section, build_with_weights

_DEVICE_FIX = 'Fix: use device "auto": an accelerator if there is one, else the CPU.'


class LoadedModel(NamedTuple):
    """A model in evaluation mode on the CPU.

    sections: the config, or the sections of a model without one. foreign: whether the weights are another project's;
    the config is then derived from them, with the published recipe's sizes in its data section, not the user's data.
    """

    model: DenseModel
    sections: ModelSections
    foreign: bool

    @property
    def config(self) -> Config | None:
        """The config; None if the model was saved without one."""
        return self.sections if isinstance(self.sections, Config) else None


def create_model(
    backbone: Section | Path | Config,
    heads: Mapping[str, Section] | None = None,
    classes: Classes | Mapping[str, Classes] | None = None,
    weights: str | Path | None = None,
    pretrained: bool = True,
    device: str | torch.device | None = None,
) -> Predictor:
    """Builds a model and loads the pretrained weights that its sections name.

    backbone: a plugin's name, or a config's section `backbone`: {"name": "swin", "variant": "tiny"}. Without `heads`, a
    complete config: a `Config`, a file or a shipped config's name.
    heads: a plugin's name or a section `heads.NAME` for each head name.
    classes: the classes of each head, by its name or task; a list for a single head. A class is a `Class` or a name.
    None: the classes of a config's data set; with `heads`, no classes.
    weights: a checkpoint of the model or of its backbone; overrides a config's weights of the same tensors, with a
    warning. pretrained: False: random weights.
    Raises ConfigError, PluginError or WeightsError for invalid arguments, such as `weights` together with a section's
    weights of the same tensors.

    Example:
        >>> backbone = {"name": "resnet", "depth": 18}
        >>> predictor = densevit.create_model(backbone, heads={"seg": "setr"}, classes={"seg": ["road", "sky"]})
        >>> predictor.predict("examples/coffee.jpg").semantic.shape
        torch.Size([480, 720])
    """
    target = device_of(device)
    if weights is not None:
        user_path(weights)  # raises for an empty path
    return Predictor(*build_with_weights(backbone, heads, classes, weights, pretrained)).to(target)


def load(
    source: str | Path,
    device: str | torch.device | None = None,
    trust: bool = False,
    runtime: str | None = None,
    backbone: str | Path | None = None,
) -> Predictor:
    """Loads the predictor of a run folder, a model file, a checkpoint of another project, `hf:ORG/NAME`, or a file of
    `densevit.export`, whose predictor runs the file on the CPU.

    device: "cuda", "cuda:1", "mps", "cpu" ...; "auto": an accelerator if there is one; None: the CPU.
    trust: True: imports classes that the file names as `module:Class`, and unpickles another project's .pth file.
    False: runs no code of the file. Installed plugins, and classes in the config.yaml of a run folder, need no trust.
    runtime: what runs ONNX files: "onnxruntime" or "openvino"; None: "onnxruntime".
    backbone: a run, a model file or pretrained weights, for a file of heads alone (`densevit join --heads-only`).
    Raises WeightsError for an incomplete model and for a backbone without heads; ConfigError for a class that the file
    names, without trust.

    Example:
        >>> predictor = densevit.load("runs/setr_vit")
        >>> predictor.predict("examples/coffee.jpg").semantic.shape
        torch.Size([480, 720])
    """
    target = device_of(device)
    with torch.random.fork_rng(devices=[]):  # initial values are overwritten
        if backbone is None:
            loaded = load_any(source, trust, runtime)
        else:
            loaded = _loaded(on_backbone(read_part(source, trust=trust), backbone, trust))
    return Predictor(loaded.model, loaded.sections).to(target)


def load_any(source: str | Path, trust: bool = False, runtime: str | None = None) -> LoadedModel:
    """Loads the model of any source of `load`. Warns about options that foreign weights do not determine."""
    if is_exported(source):
        return LoadedModel(*build(open_file(source, runtime), trust), foreign=False)
    if runtime is not None:
        raise DensevitError(f"{source}: runtime {runtime} is for exported files, NAME.onnx. Fix: leave it out.")
    checkpoint = checkpoint_io.read(source, trust=trust)
    folder = user_path(source) if user_path(source).is_dir() else None
    file = str(source) if folder is None else f"{source}/model.safetensors"
    if checkpoint.header.get("format") == "densevit":
        return _loaded(model_file.from_state(checkpoint.tensors, checkpoint.header, file, trust, folder))
    if {"backbone", "heads"} <= {name.partition(".")[0] for name in checkpoint.tensors}:
        raise WeightsError(
            f"{file}: a checkpoint of {len(checkpoint.tensors)} tensors without classes and config: it has no densevit "
            f"header. Fix: name the run folder or its model.safetensors; to train from these tensors, set "
            f"weights={file}."
        )
    converted = converting.convert_checkpoint(checkpoint)
    if converted.config is None:
        raise WeightsError(
            f"{source}: contains only a backbone ({converted.section.name}), which predicts nothing. Fix: train a "
            f"model with backbone.weights={source}, or build one with densevit.create_model."
        )
    if converted.assumed:
        warnings.warn(
            f"{source}: assumed {', '.join(converted.assumed)}, because the weights do not determine it. If this is "
            f"wrong: densevit convert {source} OUT section.key=value, and use OUT.",
            stacklevel=3,
        )
    return LoadedModel(converted.model, converted.config, foreign=True)


def _loaded(model: DenseModel) -> LoadedModel:
    assert model.sections is not None
    return LoadedModel(model, model.sections, foreign=False)


def save(model: Predictor | DenseModel, path: str | Path) -> None:
    """Writes a model file for `load`: weights, classes, and the config or sections of the model, with a predictor's
    inference options. A replaced `resize` is not written.

    Raises WeightsError for a DenseModel built from parts, and for an exported file.

    Example:
        >>> densevit.save(densevit.load("runs/setr_vit"), "mine.safetensors")
        >>> [*densevit.load("mine.safetensors").heads]
        ['segmentation']
    """
    if isinstance(dense := dense_model(model), FileModel):
        raise WeightsError(f"{dense.file.path}: an exported file has no weights to save. Fix: save the model itself.")
    model_file.save(dense_model(model), path, model.sections if isinstance(model, Predictor) else None)


def device_of(name: str | torch.device | None) -> torch.device:
    """The device with this name. Raises DensevitError if it is unavailable."""
    if name is None:
        return torch.device("cpu")
    if str(name) == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    if str(name).partition(":")[0] == "meta":
        raise DensevitError(f"device meta computes nothing. {_DEVICE_FIX}")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises either for an unavailable device
        reason = str(error).splitlines()[0].rstrip(".")
        raise DensevitError(f"device {name}: {reason}. {_DEVICE_FIX}") from None
