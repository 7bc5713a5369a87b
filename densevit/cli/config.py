"""Prints the resolved config.

Merges bases and section files, applies overrides, fills in defaults and validates values. With `trainer.devices=8` it
also prints the batch of each device with which a step has the recipe's images.
"""

import argparse

from densevit import config

EXAMPLES = """examples:
  densevit config detr_swin
  densevit config runs/mine
  densevit config detr_swin data=coco data.root=~/coco
  densevit config coco/dino_r50_12ep trainer.devices=8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a config file, a run folder, or a shipped config's name")
    parser.add_argument(
        "overrides", metavar="section.key=value", nargs="*", help="overrides; section=FILE reads a section from a file"
    )


def run(args: argparse.Namespace) -> int:
    resolved = config.load(args.config, args.overrides)
    config.check_plugins(resolved)
    facts = {} if _processes(resolved) == 1 else _batch_of_the_recipe(_processes(resolved), config.load(args.config))
    args.output.show(config.dump(resolved, facts).rstrip("\n"))
    args.output.result(resolved.model_dump(mode="json"))
    return 0


def _batch_of_the_recipe(processes: int, recipe: config.Config) -> dict[str, str]:
    """The largest batch of a process, at most the recipe's, with which a step has the recipe's images.

    If these cannot be divided among the processes, a step has fewer, and the learning rates are scaled linearly.
    """
    images = recipe.data.batch_size * recipe.trainer.accumulate * _processes(recipe)
    share = max(1, images // processes)
    size = next(size for size in range(min(recipe.data.batch_size, share), 0, -1) if share % size == 0)
    rates = {key: getattr(recipe.optim, key) for key in ("lr", "backbone_lr")}  # lr_per_256 is scaled anyway
    scaled = "".join(f" optim.{key}={r * share * processes / images:g}" for key, r in rates.items() if r)
    return {
        f"{processes} processes": f"data.batch_size={size} trainer.accumulate={share // size}{scaled} "
        f"({share * processes} images a step, the recipe {images})"
    }


def _processes(run: config.Config) -> int:
    """The processes of a run; 1 of `auto`."""
    devices = run.trainer.devices
    return run.trainer.num_nodes * (devices if isinstance(devices, int) else devices.strip(",").count(",") + 1)
