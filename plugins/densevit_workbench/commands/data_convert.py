"""Converts YOLO, VOC, labelme, COCO, Label Studio or Open Images data to COCO's format.

`data=OUT` reads it.
"""

import argparse
import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from densevit.errors import ConfigError, counted

if TYPE_CHECKING:
    from densevit.channels import Channels
    from densevit.config import DataSection

FORMATS = ("yolo", "voc", "labelme", "coco", "coco_panoptic", "label_studio", "open_images")

EXAMPLES = """examples:
  densevit data convert yolo ~/yolo_set ~/my_set
  densevit data convert voc ~/VOCdevkit/VOC2012 ~/my_set --splits train=0.7,val=0.2,test=0.1
  densevit data convert coco ~/coco ~/vehicles --merge car,truck,bus=vehicle"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=FORMATS, metavar="|".join(FORMATS), help="the format of SRC")
    parser.add_argument("source", metavar="SRC", type=Path, help="the data set's folder, data.yaml or json")
    parser.add_argument("out", metavar="OUT", type=Path, help="a new folder: annotations/ and images/")
    parser.add_argument(
        "overrides",
        metavar="data.channels=NAMES",
        nargs="*",
        help="channels of the images, if each channel has its own file",
    )
    parser.add_argument(
        "--splits",
        metavar="SHARES",
        type=_shares,
        help="split all images again, stratified by class, such as train=0.8,val=0.2",
    )
    parser.add_argument(
        "--merge",
        metavar="A,B=NAME",
        type=_merge,
        action="append",
        default=[],
        help="merge classes into one; repeatable",
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that are missing or cannot be read, and list them",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop at invalid objects, such as boxes without area; they are left out and counted by default",
    )
    parser.add_argument(
        "--origin",
        type=int,
        choices=(0, 1),
        help="the coordinate of the first pixel in xml files of voc (default: that of the tool that wrote them)",
    )
    parser.add_argument(
        "--outside-paths", action="store_true", help="allow entries that name images outside of SRC's folder"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of --splits (%(default)s)")


def run(args: argparse.Namespace) -> int:
    from densevit_workbench.interchange.conversion_paths import check_paths

    check_paths(args.source, args.out)  # before slow imports
    from densevit_workbench.interchange.dataset_conversion import convert_dataset

    channels = _channels(args.format, args.overrides) if args.overrides else None
    merge = {old: new for renamed in args.merge for old, new in renamed.items()}
    dataset = convert_dataset(
        args.format,
        args.source,
        args.out,
        args.splits,
        merge,
        args.seed,
        args.output.track,
        args.skip_unreadable,
        args.outside_paths,
        args.strict,
        args.origin,
        channels,
    )
    for inventory in dataset.inventories:
        if not inventory.skipped:  # otherwise a warning has shown it
            args.output.show(str(inventory))
    for note in dataset.notes:
        args.output.show(f"{args.source}: {note}")
    counts = {split: len(images) for split, images in dataset.splits.items()}
    objects = {split: sum(len(image.objects) for image in images) for split, images in dataset.splits.items()}
    empty = {split: sum(not image.objects for image in images) for split, images in dataset.splits.items()}
    for split, count in counts.items():
        image_text, object_text = counted(count, "image"), counted(objects[split], "object")
        background = f"; {counted(empty[split], 'image')} without objects" if empty[split] else ""
        args.output.show(f"{split}: {image_text}, {object_text}{background}")
    args.output.show(f"{counted(len(dataset.classes), 'class')}: {', '.join(dataset.classes)}")
    args.output.show(f"Use it with: data={shlex.join([str(args.out), *args.overrides])}")
    every = [image for images in dataset.splits.values() for image in images]
    args.output.result(
        {
            "images": counts,
            "objects": objects,
            "classes": list(dataset.classes),
            "without_label_file": [str(image.path) for image in every if not image.label_file_exists],
            "skipped": list(dataset.skipped),
            "inventories": {
                inventory.noun: {"found": inventory.total, "used": inventory.used, "skipped": inventory.skipped}
                for inventory in dataset.inventories
            },
            "out": str(args.out),
        }
    )
    return 0


def _channels(format: str, overrides: list[str]) -> "Channels":
    """Builds channels from overrides. Raises ConfigError for other keys."""
    from densevit import config as configs
    from densevit.config.data_schema import CHANNELS

    other = [
        override for override in overrides if override.partition("=")[0] not in [f"data.{key}" for key in CHANNELS]
    ]
    if other:
        raise ConfigError(f"{other[0]!r} is not a key of images' channels: data.{', data.'.join(CHANNELS)}.")
    section: DataSection = configs.section("data", {"name": format}, "data convert", overrides)
    return section.given_channels


def _shares(text: str) -> dict[str, float]:
    parts = (part.partition("=") for part in text.split(","))
    with contextlib.suppress(ValueError):
        shares = {name.strip(): float(share) for name, _, share in parts}
        if all(map(str.isidentifier, shares)):
            return shares
    raise argparse.ArgumentTypeError(f"{text!r} is not a list of shares by split, such as train=0.8,val=0.2")


def _merge(text: str) -> dict[str, str]:
    old, equals, new = text.rpartition("=")
    names = [name.strip() for name in old.split(",")]
    if not equals or not new.strip() or not all(names):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of classes with a new name, such as car,truck=vehicle"
        )
    return dict.fromkeys(names, new.strip())
