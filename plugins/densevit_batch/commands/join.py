"""Joins heads that were trained apart on one frozen backbone into one model file.

The backbone runs once per image, and each head's predictions stay bit-identical. The models must have the same backbone
(train them with backbone.freeze=true and the same weights) and the same evaluation transform, unless --image-size
chooses one.

One more head: train a config with `weights: JOINED`, the new head and its data, without a backbone. The run has the
backbone of the file, frozen. Then join JOINED and the run.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densevit.cli.evaluate import add_trust
from densevit.errors import ConfigError
from densevit.paths import user_path
from densevit_batch.commands.predict_arguments import sides

if TYPE_CHECKING:
    from densevit.evaluation.recorded import RecordedEvaluation
    from densevit.model import DenseModel
    from densevit_batch.model_joining import HeadSource

EXAMPLES = """examples:
  densevit join runs/boxes runs/surfaces runs/depth --out joined.safetensors
  densevit join cars=runs/cars people=runs/people --out joined.safetensors
  densevit join runs/boxes runs/surfaces --out joined.safetensors --image-size 480x640 --evaluate
  densevit join runs/depth --heads-only --out depth.safetensors    # a few megabytes, without the backbone
  densevit join runs/boxes depth.safetensors --out joined.safetensors
  densevit join joined.safetensors runs/normals --out four.safetensors"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "models",
        metavar="[NAME=]MODEL",
        nargs="+",
        help="a run folder, a model file or a file of --heads-only. NAME: another name of its head; of several heads, "
        "NAME_HEAD",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="NAME.safetensors")
    parser.add_argument(
        "--image-size",
        metavar="SIZE",
        type=sides,
        help="resize images to this long side (640), or into this height and width (480x640), where the models' "
        "evaluation transforms differ",
    )
    parser.add_argument(
        "--stretch", action="store_true", help="with --image-size: resize without keeping the aspect ratio"
    )
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="evaluate each model and its heads in the file on the data of its training, and write both metrics into "
        "the file",
    )
    parser.add_argument(
        "--heads-only",
        action="store_true",
        help="write the heads without the backbone's tensors, but with their digest",
    )
    add_trust(parser)


def run(args: Namespace) -> int:
    from densevit.atomic_io import check_free

    check_free(args.out, "Fix: name a file with --out FILE.")
    if args.stretch and not args.image_size:
        raise ConfigError("--stretch: needs a size. Fix: add --image-size SIDE or HxW.")
    from densevit.terminal import table
    from densevit.weights import licences, model_file
    from densevit_batch.model_joining import join, read_part, save_heads

    parts = [read_part(source, name, args.trust) for name, source in map(_named, args.models)]
    model = join(parts, args.image_size, args.stretch)
    recorded = _evaluated(parts, model) if args.evaluate else None
    further = {} if recorded is None else {"evaluation": recorded.as_json()}
    save = save_heads if args.heads_only else model_file.save
    save(model, args.out, further=further)
    size = args.out.stat().st_size
    sources = {name: part.source for part in parts for name in part.model.heads}
    rows = [[name, model.plugin_name(name), source] for name, source in sources.items()]
    args.output.show(table(rows, ["head", "plugin", "from"]), f"{args.out}: {size / 1e6:.1f} MB")
    args.output.show(*(licences.line(source, stated) for source, stated in model.licences.items()))
    if recorded is not None:
        from densevit.evaluation.evaluation_tables import comparison_table

        args.output.show("", comparison_table(*recorded))
    elif args.image_size is not None:
        args.output.show("Scores at this size are unknown. To measure them, add --evaluate.")
    args.output.result({"file": str(args.out), "bytes": size, "heads": sources, **further})
    return 0


def _named(text: str) -> tuple[str | None, str]:
    """Splits NAME=MODEL; the name is None without one."""
    name, equals, source = text.partition("=")
    is_named = equals and name.replace("-", "_").isidentifier() and not user_path(text).exists()
    return (name, source) if is_named else (None, text)


def _evaluated(parts: "Sequence[HeadSource]", joined: "DenseModel") -> "RecordedEvaluation":
    """The metrics of each part alone and of its heads in the joined model, both on the data of its training."""
    from densevit import config as configs
    from densevit.evaluation.recorded import RecordedEvaluation
    from densevit.training.run.evaluation import evaluate

    alone, together = dict[str, float](), dict[str, float]()
    for part in parts:
        data, resized = part.model.training_data, joined.training_data
        if data is None or resized is None:
            raise ConfigError(f"{part.source}: names no data to evaluate on. Fix: leave out --evaluate.")
        config = configs.from_mapping({"trainer": {"max_epochs": 1}, **part.model.sections.model_dump()}, part.source)
        alone |= evaluate(part.model.with_config(config))
        data = data.model_copy(update={"image_size": resized.image_size, "transforms": resized.transforms})
        with_heads = joined.with_heads(part.model.heads)
        together |= evaluate(with_heads.with_config(config.model_copy(update={"data": data})))
    return RecordedEvaluation(alone, together, None)
