"""Entries of Lightning's checkpoints: random states, the config, and the header that `load` builds the model from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from densevit import config as configs
from densevit.errors import WeightsError, check_format
from densevit.losses.distributed import gather_objects
from densevit.model import DenseModel
from densevit.training.loop.budget import Budget
from densevit.weights import checkpoint_io, model_file
from densevit.weights.state_dict_io import FORMAT


def entries(model: DenseModel, prefix: str, device: torch.device) -> dict[str, Any]:
    """The entries of a checkpoint. model: the saved model. prefix: the prefix of its tensors in the state dict."""
    values: dict[str, Any] = {
        "format_version": FORMAT,
        "random_state": _random_states(device),
        "classes": {head: [c.name for c in classes] for head, classes in model.classes.items()},
    }
    if model.config is not None:
        values["config"] = configs.dump(model.config)
    if model.heads:
        values[checkpoint_io.ENTRIES] = model_file.entries(model, model_file.sections_of(model))
        values[checkpoint_io.EVAL_MODEL] = prefix
    return values


def _random_states(device: torch.device) -> list[dict[str, Tensor]]:
    """The states of torch's generators of the CPU and of the device, in each process."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return gather_objects(state)


def restore_random_state(states: Sequence[Mapping[str, Tensor]], rank: int, device: torch.device) -> None:
    """Sets the random states of this process, unless the checkpoint is of fewer processes."""
    for state in states[rank : rank + 1]:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], device)


def restore(checkpoint: dict[str, Any], source: str, model: DenseModel, budget: Budget | None) -> None:
    """Sets the score thresholds of the saved model, and replaces Lightning's number of batches in an incomplete epoch
    by the budget's. source: the file, for messages.

    Raises WeightsError for a checkpoint of another format.
    """
    check_format(checkpoint.get("format_version"), FORMAT, source, WeightsError)
    model.score_thresholds = model_file.score_thresholds(checkpoint.get(checkpoint_io.ENTRIES, {}))
    if budget is None:
        return
    state = checkpoint["loops"]["fit_loop"]
    loader, counts = state["state_dict"]["combined_loader"][0], state["epoch_loop.batch_progress"]["current"]
    if loader["position"] < loader.get("length", math.inf):
        done = checkpoint["global_step"] - budget.epoch_shift - loader["epoch"] * budget.steps_per_epoch
        counts.update({name: count + done - counts["ready"] for name, count in counts.items()})
