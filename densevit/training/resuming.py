"""What a stopped run may go on with: its last checkpoint, and the config that the checkpoint was trained with."""

import fnmatch
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from densevit import config as configs
from densevit.config import Config, reading
from densevit.errors import ConfigError, WeightsError
from densevit.model import DenseModel
from densevit.options import shown
from densevit.weights import safe_unpickler

try:
    import fcntl
except ImportError:  # Windows, where runs are not locked
    fcntl = None  # type: ignore[assignment]

_CHANGEABLE = ("data.*", "inference.*", "trainer.*", "heads.*.evaluation.*", "optim.*")
_FIXED = ("data.name", "optim.name", "optim.backbone_lr", "optim.layer_decay", "optim.lr_factors.*")


class Checkpoint:
    """The last checkpoint of a run. Raises WeightsError where there is none, or where it is none of ours.

    step: optimiser steps made. config: what it was trained with; None where it was written before checkpoints had it.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / "checkpoints" / "last.ckpt"
        if not self.path.is_file():
            raise WeightsError(
                f"--resume {run}: there is no {self.path}. Name the folder of a run that has begun to train."
            )
        try:  # nothing of it is run
            content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
            self.step = int(content["global_step"])
        except Exception as error:  # a spoilt pickle raises anything
            raise WeightsError(
                f"{self.path}: not a complete checkpoint of tensors and plain values, as a run leaves it "
                f"({safe_unpickler.reason(error)}). Nothing of it was run. Copy it again, or train from the run's "
                "config.yaml."
            ) from error
        self.shapes = {key: tuple(x.shape) for key, x in content.get("state_dict", {}).items()}
        self.classes: dict[str, list[str]] | None = content.get("classes")
        self.config: Config | None = None
        if isinstance(content.get("config"), str):
            self.config = configs.from_mapping(reading.parse(content["config"], str(self.path)), str(self.path))

    def check_model(self, model: DenseModel) -> None:
        """Raises WeightsError where the model has other classes or tensors than the one that was saved."""
        for name, classes in model.classes.items():
            own, saved = [c.name for c in classes], (self.classes or {}).get(name)
            if saved is not None and own != saved:
                raise WeightsError(
                    f"{self.path}: heads.{name} was trained on the classes {', '.join(saved)}; the data now has "
                    f"{', '.join(own)}. Set data.root back to the data of this run, or start a new run."
                )
        shapes = {f"model.{key}": tuple(x.shape) for key, x in model.state_dict().items()}
        for key in {**shapes, **self.shapes}:
            if shapes.get(key) != self.shapes.get(key):
                raise WeightsError(
                    f"{self.path}: the tensor {key} has the shape {self.shapes.get(key, 'of none')}, and in the model "
                    f"{shapes.get(key, 'there is none')}. The plugin's code has changed; start a new run."
                )


def changes(before: Config, after: Config) -> dict[str, str]:
    """The keys that differ between the config of a checkpoint and the one to go on with: {key: "old -> new"}.

    Raises ConfigError where one of them makes another model, optimiser or data set.
    """
    old, new = _flat(before.model_dump()), _flat(after.model_dump())
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    found = {key: f"{shown(old.get(key))} -> {shown(new.get(key))}" for key in keys}
    impossible = [key for key in keys if not _can_change(key, old.get(key), new.get(key))]
    if impossible:
        listed = "".join(f"\n  {key}: {found[key]}" for key in impossible)
        raise ConfigError(
            "A run goes on with the model, the optimiser and the data set that it began with; these keys differ from "
            f"those of its last checkpoint:{listed}\nSet them back in its config.yaml, or start a new run with "
            "weights=RUN."
        )
    return found


def _can_change(key: str, old: Any, new: Any) -> bool:
    if key.startswith("heads.") and key.endswith(".weight"):
        return "learned" not in (old, new)  # which is a parameter
    if key == "trainer.ema":
        return new is not None  # without an average the checkpoint's weights are the averaged ones
    changeable, fixed = (
        any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns) for patterns in (_CHANGEABLE, _FIXED)
    )
    return changeable and not fixed


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{section: {key: value}} as {"section.key": value}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


class RunLock:
    """Keeps a second process from training in a run's folder.

    The system lets go of it however the process ends. It is not inherited by the loader's processes, which may outlive
    a killed training for seconds.
    """

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError where another process has the folder."""
        self._file = None
        if fcntl is None:
            return
        path = folder / ".lock"
        self._file = path.open("a+")
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise ConfigError(
                f"{folder}: is being trained by {holder}. Wait for its end, or stop it with Ctrl-C, which saves."
            ) from None
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()

    def release(self) -> None:
        """Gives the folder back."""
        if self._file is not None:
            self._file.close()
