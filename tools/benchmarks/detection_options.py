"""Ablation of the options of the DETR heads: AP on the built-in scenes at equal training time.

Each option is changed alone in a recipe that has the others (`BASES`), and trained as in `convergence.py`: for the
number of images that it can process in the given time, with the schedule annealed to that number. AP is measured on the
split `val`, which is used to choose recipes; the split `test` is held out. OUT/results.json is written after each run,
and runs in it are not repeated.
"""

import re
import statistics
from pathlib import Path
from typing import NamedTuple

from convergence import CONTESTANTS, YARDSTICK, Contestant, Contestants, compare
from convergence_report import AP, AP50, Results, budgets, row, runs_of

HEAD = "heads.detection"
MUON = ("optim.name=muon", "optim.matrices=convolutions")


class Base(NamedTuple):
    """A recipe with overrides, and the changed options with their overrides."""

    label: str
    config: Path
    options: dict[str, tuple[str, ...]]
    overrides: tuple[str, ...] = ()


COMMON = {
    "without dense_loss": (f"{HEAD}.dense_loss=0",),
    "without denoising": (f"{HEAD}.denoising=0",),
    "contrastive_denoising for denoising": (f"{HEAD}.denoising=0", f"{HEAD}.contrastive_denoising=20"),
    "with look_forward_twice": (f"{HEAD}.look_forward_twice=true",),
    "classification focal": (f"{HEAD}.classification=focal",),
    "classification varifocal": (f"{HEAD}.classification=varifocal",),
}
DISTINCT = (f"{HEAD}.two_stage=false", f"{HEAD}.denoising=0", f"{HEAD}.distinct_queries=0.7")
MIXED = f"{HEAD}.mixed_query_selection=true"
DINO = (*COMMON["contrastive_denoising for denoising"], *COMMON["with look_forward_twice"], MIXED)
NOT_DINO = (
    f"{HEAD}.contrastive_denoising=0",
    f"{HEAD}.denoising=3",
    f"{HEAD}.look_forward_twice=false",
    f"{HEAD}.mixed_query_selection=false",
    f"{HEAD}.dense_loss=4",
)
BASES = {
    YARDSTICK: Base(
        "`detr_swin_denoising`: DETR with two stages and denoising",
        CONTESTANTS[YARDSTICK].config,
        {
            **COMMON,
            "without two_stage": (f"{HEAD}.two_stage=false",),
            "without position_bias": (f"{HEAD}.position_bias=false",),
            "distinct_queries for two_stage and denoising": DISTINCT,
            "Muon on convolutions for AdamW": MUON,
        },
    ),
    "deformable_two_stage": Base(
        "Deformable DETR with two stages, denoising and dense_loss",
        CONTESTANTS["deformable_swin"].config,
        {
            **COMMON,
            "with mixed_query_selection": (MIXED,),
            "with hybrid_queries": (f"{HEAD}.hybrid_queries=100",),
            "DINO's three": DINO,
            "DINO's three, without dense_loss": (*DINO, *COMMON["without dense_loss"]),
        },
        NOT_DINO,
    ),
}


def key(base: str, option: str) -> str:
    """The name of an option's runs and of their folders, without quotes and spaces."""
    return re.sub(r"[^\w-]+", "-", f"{base}-{option}")


def contestants() -> Contestants:
    """Each base, followed by its options."""
    found = {}
    for name, base in BASES.items():
        found[name] = Contestant(base.label, base.config, base.overrides)
        for option, overrides in base.options.items():
            found[key(name, option)] = Contestant(option, base.config, (*base.overrides, *overrides))
    return found


def table(results: Results) -> str:
    """AP and AP50 of the longest budget, mean and standard deviation over seeds, and the change of AP from the base.

    The change is the mean over the seeds of both.
    """
    (*_, minutes) = budgets(results)
    lines = [row(["recipe and option", "images/s", "seeds", "AP", "AP50", "change of AP"]), row(["---"] * 6)]
    for name, base in BASES.items():
        reference = {run["seed"]: run["points"][-1][AP] for run in runs_of(results, name, minutes)}
        for label, contestant in [(base.label, name), *((option, key(name, option)) for option in base.options)]:
            runs = runs_of(results, contestant, minutes)
            if not runs:
                continue
            ap, ap50 = ([run["points"][-1][column] for run in runs] for column in (AP, AP50))
            changes = [run["points"][-1][AP] - reference[run["seed"]] for run in runs if run["seed"] in reference]
            change = f"{statistics.mean(changes):+.3f}" if changes and contestant != name else ""
            speed = f"{results['rates'][contestant]:.1f}"
            lines.append(row([label, speed, str(len(runs)), _spread(ap), _spread(ap50), change]))
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def report(results: Results, out: Path) -> str:
    """Writes the table. Returns it."""
    text = table(results)
    (out / "detection_options.md").write_text(text)
    return text


if __name__ == "__main__":
    compare(contestants(), report, (__doc__ or "").splitlines()[0], minutes=3.0, validations=2)
