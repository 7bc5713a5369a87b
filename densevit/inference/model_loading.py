"""Loads and saves models."""

from pathlib import Path
from typing import Any

import torch

from densevit.errors import DensevitError
from densevit.model import DenseModel, InferenceModel, unwrapped
from densevit.weights import checkpoint_io, model_file
from densevit.weights.sources import source_of

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
    trust: True: imports classes that the file names as `module:Class`, and unpickles a .pt2 or .pth file. False:
    runs no code of the file. Installed plugins, and classes in the config.yaml of a run folder, need no trust.
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
        return model_file.load(source, model=unwrapped(model, "load"))
    target = device_of(device)
    with torch.random.fork_rng(devices=[]):  # initial values are overwritten
        loaded, _ = load_any(source, trust, runtime=runtime, backbone=backbone)
    return loaded.to(target) if isinstance(loaded, DenseModel) else loaded


def load_any(source: str | Path, trust: bool = False, **options: Any) -> tuple[InferenceModel, bool]:
    """Loads the model of any source of `load`, on the CPU. options: its arguments `runtime` and `backbone`. Returns
    what `Source.load` returns."""
    options = {key: value for key, value in options.items() if value is not None}
    if not options and checkpoint_io.is_densevit(source):
        return model_file.load(source, trust), False
    if reader := source_of(source, options):
        return reader.load(source, trust, **options)
    for key, value in options.items():
        kind = {"runtime": "exported files, NAME.onnx", "backbone": "files of heads"}[key]
        raise DensevitError(f"{source}: {key} {value} is for {kind}. Fix: leave it out.")
    raise checkpoint_io.without_header(checkpoint_io.read(source, trust=trust))


def save(model: DenseModel, path: str | Path) -> None:
    """`DenseModel.save`. Raises WeightsError for an exported file.

    Example:
        >>> densevit.save(densevit.load("runs/setr_vit"), "mine.safetensors")
        >>> [*densevit.load("mine.safetensors").heads]
        ['segmentation']
    """
    unwrapped(model, "save").save(path)


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
