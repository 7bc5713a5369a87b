"""Figures of runs on pages and in configs come from docs/results.json; tools/check --write fills them in.

docs/results.json has an entry for each training; CONTRIBUTING.md describes its fields. Three forms are
written from it:

    # Measured: ...                           in the first lines of a config, with lines that begin with `#  ` below it,
                                              or `# Not measured.`
    <!-- results: detection; config, AP -->   and all lines to `<!-- end of results -->`: a table. The rows are those of
                                              a group, or of names of entries; the columns are names of `fields`
    0.579<!-- AP of detr_swin -->             one of `fields`

Minutes, means and deviations are computed from the entries. Missing fields of an entry without scores are
`not measured`.
"""

import json
import posixpath
import re
import statistics
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from tools.conventions.tree import Problem, Tree

FILE = "docs/results.json"
FIX = "run tools/check --write"
CONFIGS = tuple(f"configs/{folder}*.yaml" for folder in ("", "scenes/", "start/", "pretrain/", "papers/"))
MEASURED = re.compile(r"^# (?:Measured:|Not measured\.).*\n(?:#  (?! ).*\n)*", re.MULTILINE)
TABLE = re.compile(r"^(<!-- results: ([^;>]+); ([^>]+) -->\n).*?^(<!-- end of results -->)$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"(?:[\d.,]+(?: ± [\d.]+)?|not measured)(<!-- ([^<>]+) of ([^<>]+) -->)")
TYPED = re.compile(r"\b(AP|AP50|PQ|mIoU|AbsRel|delta1)\s(0\.\d{3})\b(?!<!--)")
# Pages of experiments and of published scores may have equal figures.
EXPERIMENTS = ("docs/development/", "docs/model-zoo.md")
NAMES = {"mask_AP": "mask AP", "mask_AP50": "mask AP50", "aAcc": "pixel accuracy", "top1": "top-1"}
NAMES |= {"PQ_th": "PQ of things", "PQ_st": "PQ of stuff"}
NOT_MEASURED = "not measured"

Results = dict[str, dict[str, dict[str, Any]]]


def load(tree: Tree) -> Results:
    return json.loads(tree.text(FILE))


def dumped(results: Results) -> str:
    """The text of docs/results.json: a line for each field of an entry."""

    def lines(entry: dict[str, Any]) -> str:
        return ",\n".join(
            f"   {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items()
        )

    sections = {
        section: ",\n".join(f"  {json.dumps(name)}: {{\n{lines(entry)}\n  }}" for name, entry in entries.items())
        for section, entries in results.items()
    }
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {{\n{text}\n }}" for name, text in sections.items()) + "\n}\n"


def recipe_of(name: str, entry: dict[str, Any]) -> str:
    return entry.get("recipe", name)


def scores_of(entry: dict[str, Any]) -> dict[str, str]:
    """Means over the seeds, with the standard deviation of several, by the metrics' names on pages."""
    scores = {}
    for metric, values in entry["scores"].items():
        short = metric.rpartition("/")[2]
        mean = statistics.fmean(values)
        text = f"{mean:.3f}" if mean < 1 else f"{mean:.2f}"
        deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        scores[NAMES.get(short, short)] = f"{text}{deviation}" + " m" * (short == "RMSE")
    return scores


def score(entry: dict[str, Any], metrics: int | None = None) -> str:
    """All metrics, or the first."""
    return ", ".join([f"{name} {value}" for name, value in scores_of(entry).items()][:metrics])


def twin_of(results: Results, entry: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """The same training from random weights, if there is one, and whether this one is better by the first metric."""
    twin = results["trainings"].get(entry.get("twin", ""))
    if twin is None:
        return None, True
    metric = next(iter(entry["scores"]))
    mean, reference = (statistics.fmean(each["scores"][metric]) for each in (entry, twin))
    return twin, direction(metric) * (mean - reference) > 0


def direction(metric: str) -> int:
    """1 if higher values of HEAD/METRIC are better, else -1, as an installed evaluator with this metric declares."""
    from densevit import Class, create_evaluator, list_plugins
    from densevit.evaluation.metric_order import error_metrics, sign  # late: they import torch

    head, classes = metric.partition("/")[0], [Class("object", 1, (0, 0, 0))]
    evaluators = [create_evaluator(name, classes) for name in list_plugins("evaluators")]
    return min(sign(metric, error_metrics({head: evaluator})) for evaluator in evaluators)


def passes_of(tree: Tree, recipe: str) -> int | None:
    """`trainer.max_epochs` of a recipe or of its base."""
    text = tree.text(f"configs/{recipe}.yaml")
    budget = re.search(r"max_epochs: (\d+)", text)
    base = re.search(r"^base: (.+)\.yaml$", text, re.MULTILINE)
    if budget is None and base is not None:
        return passes_of(tree, posixpath.normpath(posixpath.join(posixpath.dirname(recipe), base[1])))
    return int(budget[1]) if budget else None


def seen(tree: Tree, name: str, entry: dict[str, Any]) -> str:
    """`4,000 images, 20 of the recipe's 50 passes`."""
    passes = ""
    if "passes" in entry:
        budget = passes_of(tree, recipe_of(name, entry))
        part = f" of the recipe's {budget}" if budget not in (None, entry["passes"]) else ""
        passes = f", {entry['passes']}{part} passes"
    return f"{entry['images']:,} images{passes}"


def fields(tree: Tree, results: Results, name: str) -> dict[str, str]:
    """The values of an entry for pages, by the names in markers."""
    entry = results["trainings"][name]
    values = {key.replace("_", " "): value for key, value in entry.items() if isinstance(value, str)}
    is_named = "recipe" not in entry
    values["recipe"] = f"`{recipe_of(name, entry)}`"
    values["config"] = values["recipe"] if is_named else entry.get("label", name)
    words = ["densevit train", recipe_of(name, entry), *entry.get("overrides", [])]
    values["command"] = f"`{' '.join(repr(word) if set('{[*') & set(word) else word for word in words)}`"
    values["held out"], values["data"] = (results["data"][entry["data"]][key] for key in ("held_out", "title"))
    if entry["scores"]:
        values |= {"score": score(entry, 2), "scores": score(entry), **scores_of(entry)}
    else:
        metrics = {metric for each in results["trainings"].values() for metric in scores_of(each)}
        values |= dict.fromkeys((*metrics, "score", "scores", "minutes", "time", "images/s"), NOT_MEASURED)
    twin, is_better = twin_of(results, entry)
    values["from random weights"] = score(twin, 2) + ("" if is_better else ": not worse") if twin else ""
    if "images" in results["data"][entry["data"]]:
        values["training images"] = f"{results['data'][entry['data']]['images']:,}"
    if "images" in entry:
        values |= {"images": f"{entry['images']:,}", "images seen": seen(tree, name, entry).replace(" images", "")}
    for processor, speed in reversed(entry.get("images_per_second", {}).items()):  # the first stays
        minutes = f"{entry['images'] / speed / 60:.1f}"
        values[f"minutes with {results['processors'][processor]['kind']}"] = minutes
        values |= {"minutes": minutes, "time": f"{minutes} min", "images/s": f"{speed:g}"}
    for key, unit, size in (("parameters", "M", 1e6), ("multiply_adds", "G", 1e9)):
        if key in entry:
            values[key.replace("_", "-")] = f"{entry[key] / size:.2f} {unit}"
    return values


def table(tree: Tree, results: Results, rows: str, columns: str) -> str:
    names: list[str] = []
    twins = {entry.get("twin") for entry in results["trainings"].values()}
    for item in rows.split(", "):
        group = [name for name, entry in results["trainings"].items() if entry["group"] == item and name not in twins]
        if not group and item not in results["trainings"]:
            raise LookupError(f"{FILE} has no group and no entry {item!r}")
        names += group or [item]
    row_fields = [fields(tree, results, name) for name in names]
    heads = columns.split(", ")
    unknown = [head for head in heads if not any(head in row for row in row_fields)]
    if unknown:
        raise LookupError(f"no entry of {rows} has {unknown[0]!r}")
    lines = [
        f"| {' | '.join(cells)} |" for cells in (heads, *([row.get(head, "") for head in heads] for row in row_fields))
    ]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]])


def measured(tree: Tree, results: Results, config: str) -> str:
    """The sentence in the first lines of a config: its first entry with figures."""
    sentence = "Not measured."
    for name, entry in results["trainings"].items():
        speeds = entry.get("images_per_second", {})
        if config in entry.get("headers", [recipe_of(name, entry)]) and (entry["scores"] or speeds):
            seeds = f"seed{'s' * (len(entry['seeds']) > 1)} {', '.join(map(str, entry['seeds']))}"
            notes = [results["data"][entry["data"]]["held_out"], seeds] if entry["scores"] else []
            notes += [entry["remarks"]] if "remarks" in entry else []
            notes += ["earlier draws"] if entry.get("earlier_draws") else []
            images = [seen(tree, name, entry)] if "images" in entry else []
            text = f"{entry['label']}: " if "label" in entry else ""
            text += score(entry) if entry["scores"] else images.pop()
            text += f" ({', '.join(notes)})" if notes else ""
            text += f" after {images[0]}" if images else ""
            for processor, speed in speeds.items():
                where = "{name} ({kind}".format(**results["processors"][processor])
                text += f", {entry['images'] / speed / 60:.1f} min on {where}, {speed:g} images/s)"
            sentence = (
                f"Measured: {text}{'' if twin_of(results, entry)[1] else ', not better than from random weights'}."
            )
            break
    lines = textwrap.wrap(sentence, 120, break_long_words=False, break_on_hyphens=False)
    return "# " + "\n#  ".join(lines) + "\n"


def written(tree: Tree, results: Results, file: str) -> tuple[str, list[Problem]]:
    """The text of a page or config with its figures, and the markers that name nothing."""
    problems: list[Problem] = []

    def replaced(pattern: re.Pattern[str], figure: Callable[[re.Match[str]], str], text: str) -> str:
        def replacement(match: re.Match[str]) -> str:
            try:
                return figure(match)
            except LookupError as error:
                line = match.string.count("\n", 0, match.start()) + 1
                problems.append(Problem(file, line, str(error.args[0]), f"correct the marker or {FILE}"))
                return match[0]

        return pattern.sub(replacement, text)

    def figure_of_entry(match: re.Match[str]) -> str:
        if match[3] not in results["trainings"]:
            raise LookupError(f"{FILE} has no entry {match[3]!r}")
        values = fields(tree, results, match[3])
        if match[2] not in values:
            raise LookupError(f"{FILE} has no {match[2]!r} of {match[3]!r}")
        return values[match[2]].removesuffix(" m") + match[1]

    text = tree.text(file)
    if file.endswith(".yaml"):
        config = file.removeprefix("configs/").removesuffix(".yaml")
        if not MEASURED.search(text):
            problems.append(Problem(file, 1, "the first lines have no `# Measured:`", f"write it, and {FIX}"))
        return replaced(MEASURED, lambda _: measured(tree, results, config), text), problems
    text = replaced(TABLE, lambda m: f"{m[1]}\n{table(tree, results, m[2], m[3])}\n\n{m[4]}", text)
    return replaced(FIGURE, figure_of_entry, text), problems


def texts(tree: Tree) -> Iterator[tuple[str, str, list[Problem]]]:
    """Each page and config of measured recipes, its text with the figures of docs/results.json, and problems."""
    results = load(tree)
    for file in (*tree.pages(), *tree.files(*CONFIGS)):
        yield file, *written(tree, results, file)


def figures_are_those_of_results_json(tree: Tree) -> Iterator[Problem]:
    for file, text, problems in texts(tree):
        yield from problems
        for number, (line, new) in enumerate(zip(tree.text(file).split("\n"), text.split("\n"), strict=False), 1):
            if line != new:
                yield Problem(file, number, f"the figures are not those of {FILE}: {new.strip()}", FIX)
                break
    for name, entry in load(tree)["trainings"].items():
        if not tree.exists(f"configs/{recipe_of(name, entry)}.yaml"):
            entry_line = tree.line_of(FILE, f'^  "{re.escape(name)}"')
            yield Problem(
                FILE, entry_line, f"there is no recipe {recipe_of(name, entry)}", "correct it or remove the entry"
            )


def scores_are_not_typed(tree: Tree) -> Iterator[Problem]:
    """A recipe's score stands in generated text only, except on pages of experiments and of published scores."""
    scores = {
        (label.split()[-1], value): (label, name)
        for name, entry in reversed(load(tree)["trainings"].items())
        for label, value in scores_of(entry).items()
    }
    for file in (*tree.pages(), *tree.files(*CONFIGS)):
        if file.startswith(EXPERIMENTS):
            continue
        text = tree.text(file)
        for pattern in (MEASURED, TABLE):
            text = pattern.sub(lambda match: "\n" * match[0].count("\n"), text)
        for match in TYPED.finditer(text):
            if (match[1], match[2]) in scores:
                label, name = scores[match[1], match[2]]
                line = text.count("\n", 0, match.start()) + 1
                fix = f"write {match[2]}<!-- {label} of {name} -->" if file.endswith(".md") else "remove it"
                yield Problem(file, line, f"{match[1]} {match[2]} is a score of {name}", fix)


def write(tree: Tree) -> list[str]:
    """Writes the figures; returns the files that have changed."""
    changed = []
    for file, text, _ in texts(tree):
        if text != tree.text(file):
            (tree.root / file).write_text(text, encoding="utf-8")
            changed.append(file)
    return changed
