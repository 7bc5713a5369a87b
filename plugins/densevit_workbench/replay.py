"""Repeats a saved training step with a non-finite loss or gradient, to find the first module that produces one."""

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from densevit import config as configs
from densevit import registry
from densevit.inference.loading import device_of
from densevit.inference.predictor import Predictor
from densevit.interfaces import Class, Method
from densevit.model import build_from_architecture
from densevit.model.lora import add_adapters
from densevit.paths import user_path
from densevit.training.loop import fault_files
from densevit.training.loop.dense_module import DenseModule
from densevit.training.loop.first_non_finite import FirstNonFinite, find_in_batches, image_ids
from densevit.weights.state_dict_loading import load_state

_AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
_DTYPES = {"bf16-true": torch.bfloat16, "64-true": torch.float64}


@dataclass(frozen=True)
class Replay:
    """A repeated training step.

    step: the optimiser step, counted from 1. images: the ids of its images. reported, found: the first module with a
    non-finite value when the step was saved, and in this repetition.
    """

    step: int
    images: tuple[int | str, ...]
    reported: str
    found: FirstNonFinite

    @property
    def reproduced(self) -> bool:
        """Whether a non-finite value occurs again, in the reported module if there is one."""
        return bool(self.found.what) and self.reported in ("", str(self.found))


def replay(file: str | Path, device: str | torch.device | None = "auto", trust: Collection[str] = ()) -> Replay:
    """Repeats the training step of a file RUN/faults/step_*.pt: forward and backward pass, without an update.

    Needs no data set; weights, batches, random state and precision are those of the file. device, trust: see `load`;
    modules named in the config.yaml of the file's run need no trust.
    Raises WeightsError for any other file, and ConfigError or PluginError if the model cannot be built.
    """
    path = user_path(file)
    content = fault_files.read(path)
    target = device_of(device)
    folder = path.absolute().parent
    run = folder.parent if folder.name == "faults" else None
    config = configs.from_file(configs.values_of_file(content["config"], str(path), trust, run), str(path))
    classes = {
        name: [Class(**{**entry, "color": tuple(entry["color"])}) for entry in entries]
        for name, entries in content["classes"].items()
    }
    model = build_from_architecture(config.architecture, classes, pretrained=False)
    add_adapters(model)
    method: Method = registry.create(
        "methods", config.method.name, model, options=config.method.options, where="method"
    )
    module = DenseModule(Predictor(model, config), config.optim, method=method)
    load_state(module, content["state_dict"], path)
    precision = content["precision"]
    if precision in _DTYPES:
        module.to(_DTYPES[precision])
    module.to(target).train()
    batches = [module.transfer_batch_to_device(batch, target, 0) for batch in content["batches"]]
    with _autocast(precision, target):
        found = find_in_batches(model, method, batches, content["random_state"], target)
    images = tuple(image for batch in batches for image in image_ids(batch))
    return Replay(int(content["step"]), images, content.get("reported", ""), found)


def _autocast(precision: str, device: torch.device) -> Any:
    if precision not in _AUTOCAST:
        return nullcontext()
    return torch.autocast(device.type, _AUTOCAST[precision], cache_enabled=False)
