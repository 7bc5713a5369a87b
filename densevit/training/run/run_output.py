"""Files and terminal output at the start and the end of a run."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from rich import get_console

from densevit import config as configs
from densevit import registry
from densevit.atomic_io import replaced_file
from densevit.errors import counted, one_line, resume_hint
from densevit.evaluation import metrics_file, tables_file
from densevit.evaluation.metrics_table import metrics_table
from densevit.inference.model_loading import load
from densevit.reporting.run_report import write_report
from densevit.terminal import show
from densevit.training.callbacks.best_model import BestModel
from densevit.training.run import end_notes, start_notes
from densevit.training.run.drawn_images import draw_images
from densevit.training.run.folder import RunFolder, keep
from densevit.training.run.metrics_csv import MetricsCsv
from densevit.training.run.plan import Plan
from densevit.training.run.resumable_errors import resume_command

FINISHED = ("config.yaml", "model.safetensors", "metrics.json", "report.html")  # files of a complete run
STOPPED = "stopped"  # an empty file in the folder of a run that a signal stopped


def start(plan: Plan, folder: RunFolder, run: Path | None) -> None:
    """Writes config.yaml, keeps the weights that it names, and prints model, data and budget. run: the folder of the
    resumed run."""
    if plan.trainer.is_global_zero:
        if folder.new or not plan.is_complete:
            _prepare(plan, folder)
            keep(plan.config, folder.path, run)
        start_notes.log(plan, folder.path / "log.txt")
        for line in (*start_notes.origin(plan, folder), *start_notes.announcement(plan, folder.path)):
            show(line, get_console())
    for logger in plan.trainer.loggers:
        logger.log_hyperparams(plan.config.model_dump())


def _prepare(plan: Plan, folder: RunFolder) -> None:
    """Writes config.yaml, and a metrics.json without metrics if no best epoch is known; removes the metrics of steps
    after the checkpoint of a resumed run."""
    path, checkpoint = folder.path, plan.checkpoint
    with replaced_file(path / "config.yaml") as temporary:
        temporary.write_text(configs.dump(plan.config, start_notes.derived_values(plan)), encoding="utf-8")
    (path / "checkpoints").mkdir(exist_ok=True)
    (path / STOPPED).unlink(missing_ok=True)
    if folder.new or plan.best_epoch().best is None:  # a resumed run may have metrics of other data
        metrics_file.write({}, path / "metrics.json")
        tables_file.remove_tables(path)
    if not folder.new:
        MetricsCsv(path / "metrics.csv").remove_after(0 if checkpoint is None else checkpoint.step)


def show_complete(plan: Plan, folder: Path) -> None:
    """Prints the metrics of a run without remaining steps. Writes nothing."""
    if plan.trainer.is_global_zero:
        console = get_console()
        if plan.checkpoint is not None and plan.checkpoint.step < plan.budget.steps:
            show(end_notes.ended_early(plan.best_epoch(), plan.checkpoint.step, plan), console)
        else:
            show(end_notes.all_trained(plan, folder), console)
        if metrics := metrics_file.read(folder / "metrics.json"):
            show(metrics_table(metrics), console)


def finish(plan: Plan, folder: Path, best: BestModel, indices: Mapping[int | str, int], stopped: bool) -> list[str]:
    """Prints why training ended, and writes the visualizations and the report. Returns lines with the next commands.

    indices: data set indices of the validation images by image id. stopped: whether a signal stopped training.
    """
    if best.best_epoch.best is None:  # stopped before the first validation: saves the current weights
        best.save(plan.trainer, plan.method.eval_model(plan.model))
    if not plan.trainer.is_global_zero:
        return []
    if stopped:
        (folder / STOPPED).touch()
    console, step = get_console(), plan.trainer.global_step
    if not stopped and step < plan.budget.steps:
        show(end_notes.ended_early(best.best_epoch, step, plan), console)
    if best.best_epoch.stale:
        show(
            "Model and metrics are from the best epoch; no improvement in "
            f"{counted(best.best_epoch.stale, 'later validation')}.",
            console,
        )
    _write_report(plan, folder, indices)
    for log_run_folder in registry.load_all("loggers"):
        log_run_folder(plan.trainer.loggers, folder, step)
    if stopped:
        return [f"Stopped.{resume_hint(resume_command(folder))}"]
    return [*end_notes.next_commands(plan.config, folder), *end_notes.largest_errors(plan)]


def _write_report(plan: Plan, folder: Path, indices: Mapping[int | str, int]) -> None:
    """Writes the visualizations and the report, and prints the metrics and the files.

    The run is complete and saved, so a failure is a warning with the command that repeats the output.
    """
    console = get_console()
    try:
        write_report(folder)  # first without visualizations, which take longer
        if plan.config.heads:
            draw_images(load(folder, model=plan.passed), plan.data, folder, indices)
            write_report(folder)
    except BrokenPipeError:  # stdout is closed
        raise
    except Exception as error:  # from a plugin's `draw`, a full disk, a damaged file
        warnings.warn(
            f"The report is not complete: {one_line(error)}. To try again: densevit evaluate {folder}", stacklevel=2
        )
    if metrics := metrics_file.read(folder / "metrics.json"):
        show(metrics_table(metrics), console)
    for line in end_notes.low_scores(plan, folder, metrics):
        show(line, console)
    show(f"model: {folder / 'model.safetensors'}   report: {folder / 'report.html'}", console)
