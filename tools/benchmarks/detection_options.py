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
EXTENSIONS = f"{HEAD}.extensions"
MUON = ("optim.name=muon", "optim.matrices=convolutions")


class Base(NamedTuple):
    """A recipe, and the options that are changed in it with their overrides.

    config: None for one whose options were removed: its results stay in the table, and are not repeated.
    """

    label: str
    config: Path | None
    options: dict[str, tuple[str, ...]]


COMMON = {
    "without dense_loss": (f"{EXTENSIONS}.dense_loss=0",),
    "without denoising": (f"{EXTENSIONS}.denoising=0",),
    "contrastive_denoising for denoising": (
        f"{EXTENSIONS}.denoising=0",
        f"{EXTENSIONS}.contrastive_denoising=20",
    ),
    "with look_forward_twice": (f"{EXTENSIONS}.look_forward_twice=true",),
    "classification focal": (f"{HEAD}.classification=focal",),
    "classification varifocal": (f"{HEAD}.classification=varifocal",),
}
LAYERS = "{width: 128, num_heads: 4, encoder_layers: 1, decoder_layers: 3, feedforward: 512, dropout: 0.0}"
DISTINCT = (f"{HEAD}={{name: ddq, num_queries: 40, transformer: {LAYERS}, fusion_blocks: 2}}",)
OF_DEFORMABLE = (
    "with mixed_query_selection",
    "with hybrid_queries",
    "DINO's three",
    "DINO's three, without dense_loss",
)
BASES = {
    YARDSTICK: Base(
        "`scenes/detr_swin_denoising`: DETR with two stages and denoising",
        CONTESTANTS[YARDSTICK].config,
        {
            **COMMON,
            "without two_stage": (f"{EXTENSIONS}.two_stage=false",),
            "without position_bias": (f"{EXTENSIONS}.position_bias=false",),
            "distinct_queries for two_stage and denoising": DISTINCT,
            "Muon on convolutions for AdamW": MUON,
        },
    ),
    "deformable_two_stage": Base(
        "Deformable DETR with two stages, denoising and dense_loss",
        None,
        dict.fromkeys([*COMMON, *OF_DEFORMABLE], ()),
    ),
}


def key(base: str, option: str) -> str:
    """The name of an option's runs and of their folders, without quotes and spaces."""
    return re.sub(r"[^\w-]+", "-", f"{base}-{option}")


def contestants() -> Contestants:
    """Each base, followed by its options."""
    found = {}
    for name, base in BASES.items():
        if base.config is not None:
            found[name] = Contestant(base.label, base.config)
            for option, overrides in base.options.items():
                found[key(name, option)] = Contestant(option, base.config, overrides)
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
