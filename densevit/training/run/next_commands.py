"""The commands that follow a training, for its folder."""

import shlex
from pathlib import Path

from densevit.config import Config
from densevit.model import DenseModel
from densevit.model.exported_outputs import is_exportable


def next_commands(config: Config, model: DenseModel, folder: Path) -> list[str]:
    """Returns lines with what the trained model can do: a head without evaluator is not evaluated, and one without
    `exported` not exported. A pretrained backbone without heads is a start for others.
    """
    run = shlex.quote(str(folder))
    commands: dict[str, str] = {}
    if any(head.evaluation is not None for head in config.heads.values()):
        commands[f"densevit evaluate {run}"] = "tables of classes and errors, a page"
    if config.heads:
        commands[f"densevit predict {run} IMAGE"] = "draws what the model finds"
    if config.heads and all(map(is_exportable, model.heads.values())):
        commands[f"densevit export {run}"] = "an ONNX file, compared with the model"
    budgets = {key: getattr(config.trainer, key) for key in ("max_epochs", "max_images", "max_steps")}
    for key, number in budgets.items():
        if number is not None:
            commands[f"densevit train --resume {run} trainer.{key}={2 * number}"] = "longer"
    if not config.heads:
        commands[f"densevit train CONFIG backbone.weights={run}"] = "heads on this backbone"
    elif "root" in config.data.options:
        commands[f"densevit train {run} weights={run} data.root=FOLDER"] = "on more data"
    width = max(map(len, commands), default=0)
    return ["Next:", *(f"  {command:{width}}  # {what}" for command, what in commands.items())]
