"""Scores in the files that the Hugging Face hub reads, in the form that its documentation had in August 2026.

https://huggingface.co/docs/hub/eval-results: results lie in a model's repository, as `.eval_results/NAME.yaml`; the
benchmark that they belong to is a data set's repository with an `eval.yaml`. The hub calls both work in progress.
"""

import math
from collections.abc import Mapping, Sequence

import yaml


def hub_results(scores: Mapping[str, float], dataset: str, date: str, notes: str, source: str | None = None) -> str:
    """The text of `.eval_results/NAME.yaml`: an entry per finite score. It cannot say that lower is better.

    scores: values by metric; a metric is the id of a task. dataset: the id of a benchmark on the hub, as "cais/hle".
    date: the day of the measurement, as "2026-08-22". notes: the setting, such as the protocol and its digest. source:
    a link to the results.
    """
    shared = {"date": date, **({"source": {"url": source}} if source else {}), "notes": notes}
    entries = [
        {"dataset": {"id": dataset, "task_id": metric}, "value": float(value), **shared}
        for metric, value in scores.items()
        if math.isfinite(value)
    ]
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)


def hub_benchmark(name: str, description: str, metrics: Sequence[str], config: str, split: str) -> str:
    """The text of a data set's `eval.yaml`, with a task, and so a leaderboard, per metric.

    The hub accepts only the frameworks of its own list (`packages/tasks/src/eval.ts` of huggingface.js), to which
    densevit has to be added first. metrics: the ids of the tasks. config, split: the names of the data set's
    configuration and split on the hub.
    """
    benchmark = {
        "name": name,
        "description": description,
        "evaluation_framework": "densevit",
        "tasks": [{"id": metric, "config": config, "split": split} for metric in metrics],
    }
    return yaml.safe_dump(benchmark, sort_keys=False, allow_unicode=True)
