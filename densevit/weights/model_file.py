"""A model as one file: weights, classes and config, enough to build it again and use it."""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from densevit import config as configs
from densevit.config import reading
from densevit.errors import WeightsError
from densevit.interfaces import Class
from densevit.model import DenseModel, build_model
from densevit.weights.state import header, load_state, part, read_safetensors, read_state

FORMAT = "1"


def save(model: DenseModel, path: Path) -> None:
    """Writes `model.safetensors`: tensors, and in its header the classes of each task, the config and the version."""
    if model.config is None:
        raise WeightsError(f"{path}: a model that was not built from a config cannot be saved as a model file.")
    classes = {head.task: [asdict(c) for c in head.classes] for head in model.heads.values()}  # type: ignore[union-attr]
    entries = {"format": "densevit", "format_version": FORMAT, "classes": classes, "config": configs.dump(model.config)}
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    memory = Counter(value.untyped_storage().data_ptr() for value in tensors.values())
    for key, value in tensors.items():
        if memory[value.untyped_storage().data_ptr()] > 1:  # tied weights, which the format refuses
            tensors[key] = value.clone()
    unfinished = path.with_suffix(".partial")
    save_file(tensors, unfinished, metadata=header(entries))
    unfinished.replace(path)  # a model file is whole or not there


def load(run: str | Path) -> DenseModel:
    """The model of a run folder or a model file, in evaluation mode, on the CPU.

    Raises WeightsError where there is none or it is not whole.
    """
    path = Path(run).expanduser()
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        there = "The run has not validated yet" if (path.parent / "config.yaml").is_file() else "It is not a run folder"
        raise WeightsError(f"{path}: no such file. {there}; name a folder with a model.safetensors, or such a file.")
    state, entries = read_safetensors(path)
    if entries.get("format") != "densevit":
        raise WeightsError(f"{path}: has no densevit header. For bare tensors, train with `weights={path}`.")
    if entries.get("format_version") != FORMAT:
        version = entries.get("format_version")
        raise WeightsError(f"{path}: format version {version}, expected {FORMAT}. Update densevit.")
    try:
        values = reading.parse(entries["config"], str(path))
        classes = {task: tuple(map(_class, own)) for task, own in json.loads(entries["classes"]).items()}
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: its header is spoilt ({error}). Copy it again, or train again.") from error
    model = build_model(configs.from_mapping(values, str(path)), classes)
    load_state(model, state, path)
    return model.eval()


def _class(entries: dict[str, Any]) -> Class:
    return Class(**{**entries, "color": tuple(entries["color"])})


def load_initial(model: DenseModel) -> None:
    """Loads the weights that the model's config names: the whole model's, the backbone's, each head's with its neck.

    A head that a whole model's weights lack starts as it is, and one that this model lacks is left out; a warning says
    so. A weight that is learned goes on from theirs where they have one. Raises WeightsError where they have none of
    its heads.
    """
    config = model.config
    if config is None:
        return
    if config.weights is not None:
        state = _for_heads(read_state(config.weights), model, config.weights)
        load_state(model, state, f"weights: {config.weights}")
    if config.backbone.weights is not None:
        state = part(read_state(config.backbone.weights), "backbone.")
        load_state(model.backbone, state, f"backbone.weights: {config.backbone.weights}")
    for name, section in config.heads.items():
        if section.weights is not None:
            state = read_state(section.weights)
            load_state(model.heads[name], part(state, f"heads.{name}."), f"heads.{name}.weights: {section.weights}")
            if name in model.necks:
                neck = part(state, f"necks.{name}.")
                load_state(model.necks[name], neck, f"heads.{name}.weights, the neck: {section.weights}")


def _for_heads(state: dict[str, Tensor], model: DenseModel, source: str) -> dict[str, Tensor]:
    """The state without heads that the model lacks, and with the model's own values for heads that the state lacks."""
    parts = ("heads", "necks")
    there = {key.split(".")[1] for key in state if key.split(".")[0] == "heads"}
    added, dropped = [name for name in model.heads if name not in there], sorted(there - set(model.heads))
    if not there or len(added) == len(model.heads):
        return state  # bare weights, or another model's: `load_state` says what does not fit
    for name in dropped:
        warnings.warn(f"weights: {source}: its head {name!r} is not in this model and was left out.", stacklevel=2)
    for name in added:
        warnings.warn(f"weights: {source}: has no head {name!r}, which starts from random weights.", stacklevel=2)

    def of(names: Sequence[str], key: str) -> bool:
        return key.split(".")[0] in parts and key.split(".")[1] in names

    def learned(key: str) -> bool:
        return key.split(".")[0] == "log_variances"

    own = model.state_dict()
    kept = {key: value for key, value in state.items() if not of(dropped, key) and (key in own or not learned(key))}
    return {key: value for key, value in own.items() if of(added, key) or learned(key)} | kept
