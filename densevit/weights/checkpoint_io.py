"""Reads checkpoints from files, folders and published names into state dicts; by default runs none of their code."""

import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from densevit.errors import WeightsError
from densevit.layouts.state_dicts import below
from densevit.paths import user_path
from densevit.weights import file_kinds, torch_checkpoint
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.sources import source_of, sources
from densevit.weights.state_dict_io import read_header, read_safetensors

# Keys under which projects save state dicts, also nested, as in `ema.module`. The first one with tensors is read:
# averages (EMA) precede raw weights, as in timm. mmengine and Lightning save the average as `state_dict`.
_CONTAINERS = (
    *("state_dict_ema", "model_ema", "ema_model", "ema"),
    *("model", "state_dict", "model_state", "module", "net", "teacher", "student"),
)
# Key prefixes added by DistributedDataParallel and torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
# Weights files in a folder: our run folder's and the Hugging Face Hub's.
IN_FOLDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# densevit's Lightning checkpoints: the key of the model file's header, and the key of the model's attribute name.
ENTRIES, EVAL_MODEL = "densevit", "eval_model"


def read(source: str | Path, fix_hint: str = "", trust: bool = False) -> Checkpoint:
    """Reads a checkpoint.

    source: a file of `torch.save` or a .safetensors file; a folder with one; or what an installed source reads: other
    projects' files, and the names of published weights. fix_hint: what to do without a network, for messages. trust:
    unpickles any object, which runs the file's code. Raises WeightsError with the problem and the fix.
    """
    if not is_densevit(source) and (reader := source_of(source)):
        return reader.read(str(source), fix_hint, trust)
    return read_file(source, trust)


def read_file(source: str | Path, trust: bool = False) -> Checkpoint:
    """Reads a file of `torch.save`, a .safetensors file, or the one in a folder."""
    path = file_of(user_path(source))
    try:
        checkpoint = _in_file(path, trust)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error}).") from error
    return replace(
        checkpoint,
        tensors=_unwrapped(checkpoint.tensors, _WRAPPERS),
        source=str(source),
        path=path,
        containers={name: _unwrapped(tensors, _WRAPPERS) for name, tensors in checkpoint.containers.items()},
    )


def is_densevit(source: str | Path) -> bool:
    """Whether a file, or the file in a folder, has the header of a model file."""
    header: Mapping[str, str] = {}
    with suppress(WeightsError, OSError):
        path = file_of(user_path(source))
        file_format = file_kinds.file_format(path)
        if file_format == "safetensors":
            header = read_header(path)
        elif file_format == "torch" and zipfile.is_zipfile(path):  # its tensors are not read before they are used
            header = _in_file(path, False).header
    return header.get("format") == "densevit"


def without_header(checkpoint: Checkpoint) -> WeightsError:
    """The error for a model of densevit's keys without the header of a model file."""
    file = checkpoint.path or checkpoint.source
    return WeightsError(
        f"{file}: a checkpoint of {len(checkpoint.tensors)} tensors without classes and config: it has no densevit "
        f"header. Fix: name the run folder or its model.safetensors; to train from these tensors, set weights={file}."
    )


def file_of(path: Path) -> Path:
    """The checkpoint file at a path, which may be a folder. Raises WeightsError if there is none."""
    if path.is_dir():
        files = [path / name for name in IN_FOLDER if (path / name).is_file()]
        if not files:
            is_run = (path / "config.yaml").is_file()
            fix = "The run has not validated yet: wait for" if is_run else "Name a file, or a folder with"
            raise WeightsError(f"{path / IN_FOLDER[0]}: no such file. {fix} one of {', '.join(IN_FOLDER)}.")
        path = files[0]
    if not path.is_file():
        forms = [form for plugin in sources() for form in plugin.forms]
        names = f", or a published name: {', '.join(forms)}" if forms else ""
        raise WeightsError(f"{path}: no such file. Expected a checkpoint file, a run folder{names}.")
    return path


def _in_file(path: Path, trust: bool) -> Checkpoint:
    file_format = file_kinds.file_format(path)
    if file_format == "safetensors":
        tensors, header = read_safetensors(path)
        return Checkpoint(tensors, "", header)
    if file_format != "torch":
        raise WeightsError(f"{path}: no installed package reads {path.suffix} files. Fix: install densevit again.")
    content = torch_checkpoint.load(path, trust)
    containers = _containers(content)
    if not containers:
        raise WeightsError(f"{path}: {_without_tensors(content)}")
    tensors, entries = next(iter(containers.values())), dict[str, str]()
    if "pytorch-lightning_version" in content:
        saved, prefix = content.get(ENTRIES), f"{content.get(EVAL_MODEL, 'model')}."
        if isinstance(saved, Mapping):  # without the tensors of a training method
            entries = {key: text for key, text in saved.items() if isinstance(key, str) and isinstance(text, str)}
            tensors, containers = below(tensors, prefix), {}
        tensors = _unwrapped(tensors, (prefix,))
    return Checkpoint(tensors, "", entries, content=content, containers=containers)


def _containers(content: Any, path: str = "") -> dict[str, dict[str, Tensor]]:
    """The state dicts inside a checkpoint's nested dicts by path, such as `ema.module`; empty if there is none.

    Those with less than half of the tensors of another, such as the decay of an average, are last.
    """
    if not isinstance(content, Mapping) or path.count(".") > 2:  # a corrupt file may contain itself
        return {}
    tensors = {str(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)}
    states = [_containers(content.get(key), f"{path}.{key}".strip(".")) for key in _CONTAINERS]
    inner = {name: state for group in states for name, state in group.items()} or ({path: tensors} if tensors else {})
    return dict(sorted(inner.items(), key=lambda entry: 2 * len(entry[1]) < max(map(len, inner.values()))))


def _unwrapped(tensors: dict[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """Removes the `prefixes` that all keys begin with, such as `module.` of DistributedDataParallel."""
    prefix = next((prefix for prefix in prefixes if tensors and all(key.startswith(prefix) for key in tensors)), "")
    return _unwrapped(below(tensors, prefix), prefixes) if prefix else tensors


def _without_tensors(content: Any) -> str:
    """The error message for a checkpoint without a state dict: what the file contains, and the fix."""
    keys = f" of the keys {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) and content else ""
    return (
        f"no state dict, but a {type(content).__name__}{keys}. Expected tensors by name, at the top level or under "
        "'model' or 'state_dict'. In the project it comes from, save torch.save(model.state_dict(), 'weights.pth')."
    )
