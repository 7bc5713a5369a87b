"""Resuming a run: its checkpoint, and the permitted changes of its config."""

import fnmatch
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from densevit import config as configs
from densevit.config import Config, data_options, split_options
from densevit.config.config_layers import at, keys
from densevit.data.transforms.sample_resizing import build_evaluation_transform
from densevit.errors import ConfigError, WeightsError, check_format
from densevit.interfaces import Method
from densevit.model import DenseModel
from densevit.registry.plugin_options import shown
from densevit.training.callbacks.checkpoint_writer import numbered_checkpoints
from densevit.training.loop.budget import Trained
from densevit.training.loop.sharding import STRATEGY, previous_of, read_checkpoint
from densevit.training.run.folder import is_unused
from densevit.training.run.metrics_csv import MetricsCsv
from densevit.weights import checkpoint_io, torch_checkpoint
from densevit.weights.licences import from_header
from densevit.weights.state_dict_io import FORMAT

_CHANGEABLE = (
    "data.*",
    "inference.*",
    "trainer.*",
    "heads.*.evaluation",
    "heads.*.evaluation.*",
    "heads.*.inference",
    "heads.*.inference.*",
    "optim.*",
)
_SIZES = ((480, 640), (640, 480), (97, 1031), (3000, 2000))  # (h, w) of images, to compare evaluation transforms
_MODEL, _LAST = "model.safetensors", "last.ckpt"
_ANEW = "copy it again, or train again with the run's config.yaml"
_FIXED = ("data.name", "optim.name", "optim.backbone_lr", "optim.layer_decay", "optim.lr_factors.*")


class RunCheckpoint:
    """The last checkpoint of a run, or a checkpoint by its path. Raises WeightsError if it is missing or damaged; the
    message names the newest complete checkpoint.

    A checkpoint is a file, or a folder of shards with `trainer.strategy: fsdp2`. If a run was killed while it replaced
    that folder, the previous folder is used.

    run: the run folder, or a checkpoint in it.
    step: the number of optimiser steps. trained: the images, epochs and steps so far. best: the state of
    `BestModel`. config: the run's config.
    """

    def __init__(self, run: Path) -> None:
        self.path = checkpoint_of(run)
        if not self.path.exists() and previous_of(self.path).is_dir():
            self.path = previous_of(self.path)
        folder = run_of(run)
        self.is_sharded = self.path.is_dir()
        if not self.path.exists():
            fix = "name the folder of a run that has written a checkpoint"
            if is_unused(folder):
                fix = f"nothing was trained in it; start the run with densevit train CONFIG --run-dir {folder}"
            elif (folder / _MODEL).is_file():
                fix = f"it has a model: densevit train CONFIG weights={folder} trains it in a new run"
            fix = _another(folder, self.path) or fix
            raise WeightsError(f"--resume {run}: there is no {self.path}. Fix: {fix}.")
        try:
            content, self.shapes = _read(self.path)
            check_format(content.get("format_version"), FORMAT, self.path, WeightsError)
            self.step = int(content["global_step"])
            self.classes = {head: [str(name) for name in names] for head, names in content["classes"].items()}
            self.licences = from_header(content.get(checkpoint_io.ENTRIES, {}))
            optimizers = content.get("optimizer_states") or [{"param_groups": []}]
            groups = [] if self.is_sharded else optimizers[0]["param_groups"]  # shards have states by parameter name
            self.group_sizes = [len(group["params"]) for group in groups]
            self.without_average = {key: tuple(x.shape) for key, x in content.get("current_model_state", {}).items()}
            self.best: dict[str, Any] = content.get("callbacks", {}).get("BestModel", {"best": None})
            config, processes, trained = content["config"], len(content["random_state"]), content.get("trained") or {}
            loader = content["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
        except WeightsError:
            raise
        except Exception as error:  # a damaged pickle may raise any error
            another = _another(folder, self.path)
            safe = "" if self.is_sharded else "No code in it was run. "
            raise WeightsError(
                f"{self.path}: not a complete checkpoint of tensors and plain values "
                f"({torch_checkpoint.reason(error)}). {safe}Fix: {another or _ANEW}."
            ) from error
        values = configs.values_of_file(config, str(self.path), trust=True)  # is only compared
        self.config = configs.from_file(values, str(self.path))
        size = self.config.data.batch_size * self.config.trainer.accumulate * processes
        values = {"images": self.step * size, "first_images_per_step": size, **loader, **trained}  # older: no `trained`
        self.trained = Trained(self.step, **{key: values[key] for key in Trained._fields[1:] if key in values})

    def changes_of(self, config: Config) -> dict[str, str]:
        """`changes` of a config that resumes from this checkpoint. Raises ConfigError for a strategy that cannot."""
        if self.is_sharded != ((strategy := config.trainer.strategy) == STRATEGY):
            form, fix = (
                ("a folder of shards", f"trainer.strategy={STRATEGY}, with any number of processes")
                if self.is_sharded
                else ("a file", "trainer.strategy as it was")
            )
            raise ConfigError(
                f"trainer.strategy={strategy}: {self.path} is {form}, which this strategy cannot resume. Fix: set "
                f"{fix}; or start a new run with weights=RUN."
            )
        return changes(self.config, config)

    def check_model(self, model: DenseModel, method: Method) -> None:
        """Raises WeightsError if the model's classes, or tensors of model or method, differ from the checkpoint's."""
        for name, classes in model.classes.items():
            names, saved = [c.name for c in classes], self.classes.get(name)
            if saved is not None and names != saved:
                raise WeightsError(
                    f"{self.path}: heads.{name} was trained on the classes {', '.join(saved)}; the data now has "
                    f"{', '.join(names)}. Fix: set data.root to the data of this run, or start a new run."
                )
        state = {**model.state_dict(prefix="model."), **method.state_dict(prefix="method.")}
        shapes = {key: tuple(x.shape) for key, x in state.items()}
        for saved_shapes in filter(None, (self.shapes, self.without_average)):
            for key in {**shapes, **saved_shapes}:
                if key.endswith("._extra_state"):  # its size may change
                    continue
                if shapes.get(key) != saved_shapes.get(key):
                    raise WeightsError(
                        f"{self.path}: {key} has shape {saved_shapes.get(key, 'none (missing)')}; the model has "
                        f"{shapes.get(key, 'no such tensor')}. The plugin's code has changed. Fix: start a new run."
                    )

    def has_groups(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the optimiser's parameter groups have the sizes in the checkpoint.

        A checkpoint of several processes lacks the parameters frozen by `freeze_unused`. A sharded checkpoint has no
        sizes and always matches.
        """
        return self.is_sharded or [len(group["params"]) for group in groups] == self.group_sizes

    def check_groups(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Raises ConfigError if the optimiser's parameter groups differ from the checkpoint's, for example because a
        changed `weight_decay` or `lr` splits or merges groups."""
        if not self.has_groups(groups):
            sizes = [len(group["params"]) for group in groups]
            raise ConfigError(
                f"optim: these learning rates and weight decays make {len(sizes)} parameter groups of {sizes} tensors; "
                f"the optimiser of {self.path} has {self.group_sizes}. Fix: keep optim.weight_decay above 0 or at 0 as "
                "it was, and optim.lr equal to optim.backbone_lr only if it was."
            )


def check_newest(resumed: Path) -> None:
    """Raises ConfigError for an earlier checkpoint than the run's last one."""
    if _is_checkpoint(resumed) and resumed.name != _LAST:
        raise ConfigError(
            f"--resume {resumed}: a run continues in its folder from its last checkpoint only. Fix: add --run-dir NEW "
            f"to continue from this one in a new folder; or continue the run with --resume {run_of(resumed)}."
        )


def run_of(resumed: Path) -> Path:
    """The run folder. resumed: the folder or one of its checkpoints."""
    return resumed.parent.parent if _is_checkpoint(resumed) else resumed


def checkpoint_of(resumed: Path) -> Path:
    """The checkpoint to resume. resumed: a checkpoint, or the run folder for its last one."""
    return resumed if _is_checkpoint(resumed) else resumed / "checkpoints" / _LAST


def _is_checkpoint(path: Path) -> bool:
    """Whether the path is named like a checkpoint and is not a run folder with such a name."""
    return path.suffix == ".ckpt" and not ((path / "config.yaml").is_file() or is_unused(path))


def without_checkpoint(resumed: Path) -> bool:
    """Whether the path is the folder of a run that was killed before its first checkpoint and can start again.

    A run with a model whose checkpoints were removed must not be overwritten. A run killed while it saved its first
    epoch has that epoch's model and no report; it repeats the epoch.
    """
    last = checkpoint_of(resumed)
    is_run = resumed.is_dir() and (resumed / "config.yaml").is_file()
    kept = (last, previous_of(last), *numbered_checkpoints(resumed))
    if not is_run or any(path.exists() for path in kept):
        return False
    if not (resumed / _MODEL).exists():
        return True
    validations = [row for row in MetricsCsv(resumed / "metrics.csv").rows() if not row.get("train/loss")]
    return not (resumed / "report.html").exists() and len(validations) == 1


def _read(path: Path) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """The content of a complete checkpoint, and the shapes of its tensors.

    Verifies a file's checksums (CRC-32), and runs no code in it (weights_only).
    """
    if path.is_dir():
        return read_checkpoint(path)
    if not path.is_file():
        raise ValueError("not a regular file")
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if zipfile.is_zipfile(path):  # not in torch's old format
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of its part {damaged} is wrong")
    return content, {key: tuple(x.shape) for key, x in content.get("state_dict", {}).items()}


def _another(run: Path, damaged: Path) -> str:
    """The command that resumes from the newest complete checkpoint except `damaged`; "" without one."""
    for path in (run / "checkpoints" / _LAST, *numbered_checkpoints(run)):
        if path == damaged or not path.exists():
            continue
        with suppress(Exception):  # a damaged pickle may raise any error
            step = int(_read(path)[0]["global_step"])
            new = f"{run}-from-{step}"
            return f"resume from the checkpoint of step {step:,}: densevit train --resume {path} --run-dir {new}"
    return ""


def changes(before: Config, after: Config) -> dict[str, str]:
    """The keys that differ between a checkpoint's config and the config to resume with: {key: "old -> new"}.

    Raises ConfigError for a key that changes the model, the optimiser or the data set.
    """
    old, new = _flat(before.model_dump()), _flat(after.model_dump())
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    keys = [key for key in differing if repr(old.get(key)) != repr(new.get(key))]  # nan differs from itself
    changed = {key: f"{shown(old.get(key))} -> {shown(new.get(key))}" for key in keys}
    not_allowed = [key for key in keys if not _can_change(key, old.get(key), new.get(key))]
    if not_allowed:
        listed = "".join(f"\n  {key}: {changed[key]}" for key in not_allowed)
        raise ConfigError(
            "The model, the optimiser and the data set cannot change when a run is resumed; these keys differ from "
            f"its last checkpoint:{listed}\nFix: restore them in its config.yaml, or start a new run with "
            "weights=RUN."
        )
    return changed


def validation_of(config: Config) -> list[Any]:
    """What the metrics of a validation depend on besides the weights, equal for configs whose metrics can be compared.

    The evaluated split, its images as the model gets them, the evaluators, the inference options and the monitored
    metric.
    """
    data, transform = config.data, build_evaluation_transform(config.data)
    return [
        data.name,
        data.val_split,
        split_options(data_options(data), data.val_split),
        data.on_error,
        (data.channels, data.range, data.nodata),
        transform.canvas,
        [transform.size_of(*size) for size in _SIZES],
        {name: (head.evaluation, head.inference) for name, head in config.heads.items()},
        config.inference,
        config.trainer.monitor,
    ]


def _can_change(key: str, old: Any, new: Any) -> bool:
    if key.startswith("heads.") and key.endswith(".loss_weight"):
        return "learned" not in (old, new)  # a learned weight is a parameter
    if key == "trainer.ema":
        return new is not None  # without EMA, training would continue from the averaged weights
    changeable, fixed = (
        any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns) for patterns in (_CHANGEABLE, _FIXED)
    )
    return changeable and not fixed


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens {section: {key: value}} to {"section.key": value}."""
    flat = {".".join(map(str, key)): at(values, key) for key in keys(values)}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flat.items()
        if not isinstance(value, Mapping)
    }
