"""Loads and saves models."""

import warnings
from pathlib import Path
from typing import Any

import torch

from densevit.errors import DensevitError, WeightsError
from densevit.inference.engine import Engine, build
from densevit.inference.runtimes import is_exported, open_file
from densevit.model import DenseModel, InferenceModel
from densevit.paths import user_path
from densevit.weights import checkpoint_io, converting, model_file
from densevit.weights.model_joining import on_backbone, read_part

_DEVICE_FIX = 'Fix: use device "auto": an accelerator if there is one, else the CPU.'


def load(
    source: str | Path,
    device: str | torch.device | None = None,
    trust: bool = False,
    runtime: str | None = None,
    backbone: str | Path | None = None,
    model: DenseModel | None = None,
) -> Any:
    """Loads the model of a run folder, a model file, a checkpoint of another project, or `hf:ORG/NAME`, in evaluation
    mode; or a file of `densevit.export`, an `InferenceModel` that runs the file on the CPU.

    device: "cuda", "cuda:1", "mps", "cpu" ...; "auto": an accelerator if there is one; None: the CPU.
    trust: True: imports classes that the file names as `module:Class`, and unpickles another project's .pth file.
    False: runs no code of the file. Installed plugins, and classes in the config.yaml of a run folder, need no trust.
    runtime: what runs ONNX files: "onnxruntime" or "openvino"; None: "onnxruntime".
    model: a model that gets the weights of a run or a model file and is returned; for parts that files cannot hold.
    backbone: a run, a model file or pretrained weights, for a file of heads alone (`densevit join --heads-only`).
    Raises WeightsError for an incomplete model and for a backbone without heads; ConfigError for a class that the file
    names, without trust.

    Example:
        >>> model = densevit.load("runs/setr_vit")
        >>> model.predict("examples/coffee.jpg").semantic.shape
        torch.Size([480, 720])
    """
    if model is not None:
        return model_file.load(source, model=model)
    target = device_of(device)
    with torch.random.fork_rng(devices=[]):  # initial values are overwritten
        if backbone is None:
            loaded = load_any(source, trust, runtime)[0]
        else:
            loaded = on_backbone(read_part(source, trust=trust), backbone, trust)
    return loaded.to(target) if isinstance(loaded, DenseModel) else loaded


def load_any(source: str | Path, trust: bool = False, runtime: str | None = None) -> tuple[InferenceModel, bool]:
    """Loads the model of any source of `load`, on the CPU. Warns about options that foreign weights do not determine.

    Returns it, and whether the weights are another project's: its config is then derived from them, with the published
    recipe's sizes in its section `data`, not the user's data.
    """
    if is_exported(source):
        return build(open_file(source, runtime), trust), False
    if runtime is not None:
        raise DensevitError(f"{source}: runtime {runtime} is for exported files, NAME.onnx. Fix: leave it out.")
    checkpoint = checkpoint_io.read(source, trust=trust)
    folder = user_path(source) if user_path(source).is_dir() else None
    file = str(source) if folder is None else f"{source}/model.safetensors"
    if checkpoint.header.get("format") == "densevit":
        return model_file.built(
            checkpoint.tensors, model_file.described(checkpoint.header, file, trust, folder), file
        ), False
    if {"backbone", "heads"} <= {name.partition(".")[0] for name in checkpoint.tensors}:
        raise WeightsError(
            f"{file}: a checkpoint of {len(checkpoint.tensors)} tensors without classes and config: it has no densevit "
            f"header. Fix: name the run folder or its model.safetensors; to train from these tensors, set "
            f"weights={file}."
        )
    converted = converting.convert_checkpoint(checkpoint)
    if converted.model.config is None:
        raise WeightsError(
            f"{source}: contains only a backbone ({converted.model.sections.backbone.name}), which predicts nothing. "
            f"Fix: train a model with backbone.weights={source}, or build one with densevit.create_model."
        )
    if converted.assumed:
        warnings.warn(
            f"{source}: assumed {', '.join(converted.assumed)}, because the weights do not determine it. If this is "
            f"wrong: densevit convert {source} OUT section.key=value, and use OUT.",
            stacklevel=3,
        )
    return converted.model, True


def save(model: DenseModel, path: str | Path) -> None:
    """`DenseModel.save`. Raises WeightsError for an exported file.

    Example:
        >>> densevit.save(densevit.load("runs/setr_vit"), "mine.safetensors")
        >>> [*densevit.load("mine.safetensors").heads]
        ['segmentation']
    """
    if isinstance(model, Engine):
        raise WeightsError(f"{model.file.path}: an exported file has no weights to save. Fix: save the model itself.")
    model.save(path)


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
