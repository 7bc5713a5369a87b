"""Evaluates a model on its validation data or on other data.

Maps the classes of other data by name. Prints and saves metrics, tables per class, an error analysis and a report; with
--out, also the predictions.
"""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densevit.errors import ConfigError, DataError, listed
from densevit.paths import user_path

if TYPE_CHECKING:
    from rich.console import Group

    from densevit.config import Config
    from densevit.interfaces import Evaluator
    from densevit.model import InferenceModel
    from densevit.training.run.evaluation import EvaluationPlan


MODEL = "a run folder, a model file, a checkpoint of another project, or hf:ORG/NAME"
MODEL_OR_FILE = f"{MODEL}; or an exported file, NAME.onnx, .pt2, .tflite or .pte"

_LISTED = 20, " ... ({})"  # classes of a mapping, and the number of all
EXAMPLES = """examples:
  densevit evaluate runs/detr_swin
  densevit evaluate runs/detr_swin data=coco data.root=~/coco --out results
  densevit evaluate runs/coco data.root=~/traffic --map person=pedestrian --map "traffic light="
  densevit evaluate hf:facebook/detr-resnet-50 data=coco data.root=~/coco --json
  densevit evaluate runs/detr_swin/model.onnx"""


def add_trust(parser: ArgumentParser) -> None:
    """Adds the flag --trust, for commands that take a model."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import the classes that the model file names as module:Class, and run the code of a .pth or .pt2 file; "
        "a run folder needs no trust",
    )


def add_runtime(parser: ArgumentParser) -> None:
    """Adds the flag --runtime, for commands that run exported files."""
    parser.add_argument(
        "--runtime",
        metavar="NAME",
        help="the package that runs an ONNX file: onnxruntime (default) or openvino, on the CPU",
    )


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_OR_FILE)
    add_data(parser, "RUN")
    add_runtime(parser)
    add_trust(parser)


def add_data(parser: ArgumentParser, folder: str) -> None:
    """Adds the arguments of commands that evaluate. folder: the default parent of evaluations/, for the help."""
    parser.add_argument(
        "overrides", metavar="section.key=value", nargs="*", help="other data, precision, batch size ..."
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="a new folder for metrics, tables, report.html, detections.json and predicted maps; by default the next "
        f"free folder {folder}/evaluations/DATA, without predictions",
    )
    parser.add_argument(
        "--map",
        metavar="MODEL=DATA",
        action="append",
        default=[],
        help="a class of the model and its name in the data; nothing after =: no mapping. Or a YAML "
        "file of such pairs. Maps other classes by name",
    )


def run(args: Namespace) -> int:
    return evaluate(args, user_path(args.model) if (user_path(args.model) / "config.yaml").is_file() else None)


def evaluate(
    args: Namespace,
    folder: Path | None,
    change: "Callable[[EvaluationPlan], EvaluationPlan] | None" = None,
) -> int:
    """Evaluates a model and writes the results.

    args: the arguments of `add_data`, model, runtime and trust. folder: parent of evaluations/DATA when --out is
    absent; None: writes nothing. change: returns a plan to run in place of the model's.
    """
    from densevit.atomic_io import check_new_folder, check_writable, locked_folder

    if args.out is not None:
        check_new_folder(args.out)
    elif folder is not None:
        check_writable(folder / "evaluations", fix="Fix: name a folder with --out DIR.")
    _check_overrides(args.model, args.overrides)
    from pytorch_lightning.utilities import rank_zero_only  # takes seconds

    if args.out is None or getattr(rank_zero_only, "rank", 0) > 0:
        return _evaluate(args, folder, change)
    with locked_folder(args.out):
        check_new_folder(args.out)  # another evaluation may have written to it
        return _evaluate(args, args.out, change)


def _evaluate(
    args: Namespace,
    folder: Path | None,
    change: "Callable[[EvaluationPlan], EvaluationPlan] | None",
) -> int:
    from pytorch_lightning.utilities import rank_zero_only

    from densevit.data.data_builder import build_data
    from densevit.data.datasets.depth_maps import file_types
    from densevit.data.io.map_files import MapFiles
    from densevit.evaluation.evaluation_tables import comparison_table, evaluation_tables
    from densevit.evaluation.metrics_file import by_head
    from densevit.evaluation.metrics_table import single_class
    from densevit.inference.model_loading import load_any
    from densevit.training.run.evaluation import EvaluationPlan
    from densevit.training.run.evaluation_folder import write_evaluation

    (model, is_foreign), mapping_overrides = (
        load_any(args.model, args.trust, runtime=args.runtime),
        _class_mapping(args.map),
    )
    config = config_of(model, is_foreign, args.model, args.overrides)
    model = model.with_config(config)  # raises for unusable inference options
    plan = EvaluationPlan.of(model, build_data(config), config.trainer, mapping_overrides)
    plan = plan if change is None else change(plan)
    data = plan.data
    if not getattr(rank_zero_only, "rank", 0):
        unlabelled_heads = [head for head in model.heads if head not in plan.classes]
        note = unlabelled_heads and f"heads without labels in the data, not evaluated: {', '.join(unlabelled_heads)}"
        args.output.show(*filter(None, (data.val.conversion, data.val.division, note)))
        for head, mapping in plan.mappings.items():
            args.output.show(mapping_table(head, mapping.pairs, mapping.only_model, mapping.only_data))
    maps = MapFiles(args.out, plan.classes, file_types(plan.model)) if args.out else None
    done = plan.run(None if maps is None else maps.add_image)
    if getattr(rank_zero_only, "rank", 0) > 0:  # rank 0 alone reports
        return 0
    thresholds = plan.model.default_thresholds
    tables = {head: x.tables(x.records, thresholds[head]) for head, x in done.evaluators.items()}
    notes = {head: single_class(head_metrics) for head, head_metrics in by_head(done.metrics).items()}
    args.output.show(evaluation_tables(done.metrics, tables, notes))
    recorded = model.recorded_evaluation
    if recorded is not None:
        args.output.show("", "When it was exported:", comparison_table(recorded.model, recorded.file, recorded.data))
    if maps is not None:
        maps.finish()
        write_detections(done.evaluators, maps.folder)
    elif folder is not None:
        folder = _new_folder(folder / "evaluations", config)
    if folder is not None:
        args.output.show(f"report: {write_evaluation(folder, done, plan, str(args.model))}")
    args.output.result(
        {
            "metrics": done.metrics,
            "tables": tables,
            "notes": {head: note for head, note in notes.items() if note},
            "mapping": {head: dict(mapping.pairs) for head, mapping in plan.mappings.items()},
            "folder": None if folder is None else str(folder),
            **({} if recorded is None else {"when_exported": recorded._asdict()}),
        }
    )
    return 0


def _check_overrides(source: str, overrides: Sequence[str]) -> None:
    """Raises ConfigError for overrides that `config_of` would refuse; for a run folder all of them, before the model is
    loaded, unless the model decides how other data is read."""
    from densevit.config import check_evaluation_overrides, check_evaluation_plugins, load

    check_evaluation_overrides(overrides)
    file = user_path(source) / "config.yaml"
    if overrides and file.is_file() and not any(override.startswith("data=") for override in overrides):
        check_evaluation_plugins(load(file, overrides))


def _class_mapping(texts: list[str]) -> dict[str, str | None]:
    """Parses a class mapping from texts MODEL=DATA and YAML files with one entry per model class; null: no mapping."""
    from densevit.config.yaml_io import parse
    from densevit.data.io.text_files import read_text

    mapping: dict[str, str | None] = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if equals:
            mapping[old.strip()] = new.strip() or None
            continue
        try:
            content = read_text(user_path(text))
        except DataError as error:
            raise DataError(f"--map {error} Expected MODEL_CLASS=DATA_CLASS, or a YAML file of such pairs.") from None
        entries = parse(content, text)
        if not isinstance(entries, Mapping) or not all(new is None or isinstance(new, str) for new in entries.values()):
            raise DataError(f"{text}: expected one entry `class of the model: class of the data` per class.")
        mapping |= {str(old): new for old, new in entries.items()}
    return mapping


def _new_folder(evaluations: Path, config: "Config") -> Path:
    """Creates the next free folder DATA-SPLIT of a run's evaluations."""
    from densevit.atomic_io import next_free_folder

    evaluations.mkdir(exist_ok=True)
    return next_free_folder(evaluations / f"{config.data.folder_name}-{config.data.val_split}")


def config_of(model: "InferenceModel", is_foreign: bool, source: str, overrides: Sequence[str]) -> "Config":
    """The config of the model with overrides, which may change data and evaluation, but not the model.
    is_foreign: the result of `load_any`.

    The overrides must name a data set for a model without one: another project's, or saved without a config.
    """
    from densevit.config import check_evaluation_plugins, from_mapping
    from densevit.config import load as load_config
    from densevit.evaluation.overrides import evaluation_overrides

    changes = evaluation_overrides(overrides, model.training_data, model)
    model_config, file = model.config, user_path(source) / "config.yaml"
    if model_config is not None and not is_foreign:
        if not overrides:
            return model_config
        config = (
            load_config(file, changes) if file.is_file() else from_mapping(model_config.model_dump(), source, changes)
        )
    else:
        overridden = {override.partition("=")[0].strip() for override in overrides}
        has_data = model_config is None and model.sections.data is not None
        if not has_data and overridden.isdisjoint(
            ("data", "data.name", *(("data.root",) if model_config is not None else ()))
        ):
            recipe = (
                "" if model_config is None else f", or data.root=FOLDER for the data set {model_config.data.name!r}"
            )
            raise ConfigError(
                f"{source}: these weights do not name the data to evaluate on. Fix: data=NAME "
                f"data.root=FOLDER, as in data=coco data.root=~/coco{recipe}."
            )
        values = model.sections.model_dump()
        config = from_mapping({"trainer": {"max_epochs": 1}, **values}, source, changes)
    check_evaluation_plugins(config)
    return config


def write_detections(evaluators: "Mapping[str, Evaluator]", folder: Path) -> None:
    """Writes detections.json in COCO's results format; with several heads, detections-HEAD.json."""
    results = {head: evaluator.results() for head, evaluator in evaluators.items()}
    detections = {head: entries for head, entries in results.items() if entries is not None}
    for head, entries in detections.items():
        name = "detections.json" if len(detections) == 1 else f"detections-{head}.json"
        (folder / name).write_text(json.dumps(entries) + "\n", encoding="utf-8")


def mapping_table(
    head: str, pairs: Sequence[tuple[str, str]], only_model: Sequence[str], only_data: Sequence[str]
) -> "Group":
    """The mapped classes, and the unmapped classes of model and data."""
    from rich.console import Group
    from rich.text import Text

    from densevit.terminal import table

    title = f"{head}: {len(pairs)} of the model's {len(pairs) + len(only_model)} classes are mapped to the data's"
    rows = []
    same = [old for old, new in pairs if old == new]
    if same:
        rows.append([Text(f"{len(same)} of the same name"), Text(listed(same, *_LISTED), "cyan")])
    rows += [[Text(old, "cyan"), Text(new, "cyan")] for old, new in pairs if old != new]
    if only_model:
        rows.append(
            [Text(listed(only_model, *_LISTED), "yellow"), Text("not in the data: predictions count as no class")]
        )
    if only_data:
        rows.append([Text("not in the model: not evaluated"), Text(listed(only_data, *_LISTED), "yellow")])
    return Group(Text(title, "bold"), table(rows, ["model", "data"], right=()), Text())
