"""What a row of a board has beside the scores: the parts of its digest, a hash of the network, the machine."""

import hashlib
import inspect
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import torch

from densevit.config import Config
from densevit.data.data_splits import DataSplits
from densevit.errors import counted
from densevit.interfaces import Evaluator
from densevit.model import DenseModel
from densevit.model.backbone_digest import backbone_digest
from densevit_workbench.benchmarking.digest import digest_of, hashed, parts_of


def facts_of(
    config: Config, data: DataSplits, model: DenseModel, evaluators: Mapping[str, Evaluator], probes: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of a `Row` beside the scores. Reads the labels of both splits."""
    measured = {name: evaluator for name, evaluator in evaluators.items() if ", " not in name}  # without columns
    free = {"neck": None, "freeze": False}  # a row chooses the neck, as the backbone
    heads = {name: head.model_copy(update=free) if head.neck else head for name, head in config.heads.items()}
    shared = config.model_copy(update={"heads": heads})
    parts, device = parts_of(shared, data, model, measured, probes=probes), model.mean.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"
    return {
        "training": "frozen" if config.backbone.freeze is True else "trained",
        "network": network_of(config, model),
        "digest": digest_of(parts),
        "parts": parts,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "machine": f"{name}, {counted(torch.get_num_threads(), 'thread')}",
        "date": date.today().isoformat(),
    }


def network_of(config: Config, model: DenseModel) -> str:
    """A hash of a backbone's resolved section, of the source files of its modules, and of a frozen one's weights; and
    of the sections of necks."""
    files = sorted({type(module).__module__ for module in model.backbone.modules()})
    code = hashlib.sha256()
    for name in files:
        with suppress(OSError, TypeError):  # compiled
            code.update(b"" if name.startswith("torch.") else inspect.getsource(sys.modules[name]).encode())
    weights = backbone_digest(model) if config.backbone.freeze is True else ""
    necks = [portable({name: head.neck.model_dump()}) for name, head in config.heads.items() if head.neck]
    return hashed([portable(config.backbone.model_dump()), files, code.hexdigest(), weights, *necks])


def portable(value: Any) -> Any:
    """Replaces absolute paths by file names, also inside dicts and lists, and what JSON cannot store by text."""
    if isinstance(value, Mapping):
        return {str(key): portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, str | Path) and (Path(value).is_absolute() or str(value).startswith("~")):
        return Path(value).name
    return value if isinstance(value, str | int | float | None) else str(value)
