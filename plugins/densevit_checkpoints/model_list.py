"""Lists published models: those of the layouts in the group `densevit.checkpoints`, and timm's backbones."""

import io
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import groupby
from types import MappingProxyType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult

from densevit.errors import WeightsError, did_you_mean
from densevit.interfaces import CheckpointLayout, Licences, PublishedModel
from densevit.layouts import every, find
from densevit.terminal import show, table, text_console
from densevit_checkpoints import preprocessing
from densevit_checkpoints.hub import is_published
from densevit_checkpoints.published_licences import licences_of

BACKBONE = "backbone"  # the task of published backbones


@dataclass(frozen=True, kw_only=True)
class ListedModel(PublishedModel):
    """A row of `list_models`.

    name: what `weights` takes, such as "hf:facebook/detr-resnet-50"; of weights that do not load by name, the authors'
        file. layout: the name of the layout, which `densevit convert --as` takes.
    benchmark, score: the first of `scores`, such as "box AP, COCO" and 0.42; "" and nan without a score.
    code, weights, data, teacher, source, date, clean: those of `densevit.interfaces.Licences`.
    """

    name: str
    layout: str
    benchmark: str
    score: float
    code: str
    weights: str
    data: str
    teacher: str
    source: str
    date: str
    clean: bool | None


class ModelList(list[ListedModel]):
    """The rows of `list_models`; `pandas.DataFrame(rows)` has all fields. Printed, it is a table for each task and
    benchmark, with recipes in a terminal of at least 110 columns, and the licences that the column `clean` numbers."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        numbers: dict[str, int] = {}
        for (task, benchmark), rows in groupby(self, key=lambda row: (row.task, row.benchmark)):
            cells = [("model", "params", "score", "clean", "recipe"), *(_cells(row, numbers) for row in rows)]
            shown = (True, True, benchmark, True, task != BACKBONE and options.max_width >= 110)
            header, *body = [[cell for cell, is_shown in zip(row, shown, strict=True) if is_shown] for row in cells]
            yield table(body, header, f"{task}: {benchmark}".removesuffix(": "), right=(1,), no_wrap=(1, 2, 3))
            yield ""
        yield table(
            [(f"[{n}]", stated) for stated, n in numbers.items()],
            title="Licences, clean or not (?: unknown)",
            no_wrap=(0,),
        )

    def __repr__(self) -> str:
        show(self, text_console(file=(printed := io.StringIO())))
        return printed.getvalue().rstrip()


def _cells(row: ListedModel, numbers: dict[str, int]) -> tuple[str, str, str, str, str]:
    """The texts of a row. numbers: the licences' numbers by text, to which new ones are added."""
    stated = str(Licences(row.code, row.weights, row.data, row.teacher, row.source))
    return (
        row.name,
        f"{row.parameters / 1e6:.1f} M" if row.parameters else "",
        f"{row.score:.3f}",
        {True: "yes", False: "no", None: "?"}[row.clean] + f" [{numbers.setdefault(stated, len(numbers) + 1)}]",
        re.sub(" .+", " ...", row.recipe),
    )


def list_models(task: str | None = None, pretrained: bool | None = None) -> ModelList:
    """Lists published models with their parameters, published scores and licences.

    task: a head's task, or "backbone". timm's backbones are listed with "backbone" only, and if timm is installed.
    pretrained: True: only models whose weights load by name; False: only those whose weights do not; None: both.
    Raises WeightsError for an unknown task.

    Example:
        >>> densevit.list_models("panoptic", pretrained=True)[0].name
        'hf:tue-mps/coco_panoptic_pmt_small_640_dinov3'
    """
    listed = {  # from variants to their layout, whose row stays if both have the model
        name: _row(name, model, layout)
        for layout in reversed([*every()])
        for name, model in layout.publishing.models.items()
    }
    if task is not None and task not in (tasks := {row.task for row in listed.values()}):
        raise WeightsError(f"No published model has the task {task!r}.{did_you_mean(task, tasks)}")
    rows = (*listed.values(), *(_timm_rows() if task == BACKBONE else ()))
    return ModelList(
        sorted(
            (row for row in rows if task in (None, row.task) and pretrained in (None, is_published(row.name))),
            key=lambda row: (row.task == BACKBONE, row.task, not row.benchmark, row.benchmark, row.layout),
        )
    )


def _timm_rows() -> list[ListedModel]:
    """timm's models with weights; none, with a warning, if timm is not installed."""
    if not find_spec("timm"):
        warnings.warn(
            "timm is not installed: its backbones are left out. Fix: `pip install -e '.[timm]'` in densevit's clone.",
            stacklevel=3,
        )
        return []
    import timm

    layout, licence = replace(find("timm-vit"), name="timm"), {"licence_source": "timm"}
    return [
        _row(
            f"timm:{name}",
            PublishedModel(BACKBONE, None, {}, f"backbone.name=timm backbone.model={name}"),
            layout,
            preprocessing.timm_metadata(vars(timm.get_pretrained_cfg(name))) | licence,
        )
        for name in timm.list_pretrained()
    ]


def _row(
    name: str, model: PublishedModel, layout: CheckpointLayout, metadata: Mapping[str, Any] = MappingProxyType({})
) -> ListedModel:
    stated = licences_of(layout, name, {}, metadata)
    (benchmark, score), *_ = (*model.scores.items(), ("", math.nan))
    return ListedModel(
        name=name,
        layout=layout.name,
        benchmark=benchmark,
        score=score,
        **vars(model),
        **vars(stated),
        clean=stated.clean,
    )
