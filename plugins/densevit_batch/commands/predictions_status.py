"""Shows the progress of the parts of a prediction in one line."""

from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path

EXAMPLES = """examples:
  densevit predictions status found"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("predictions", metavar="DIR", type=Path, help="the folder of densevit predict")


def run(args: Namespace) -> int:
    from densevit_batch.prediction_folder import parts_of

    counts = {part: part.counts for part in parts_of(args.predictions)}
    states = {part: part.state(progress) for part, progress in counts.items()}
    number = Counter(state if state in ("complete", "not begun") else "begun" for state in states.values())
    texts = [f"{number[state]} {state}" for state in ("complete", "begun", "not begun")]
    images, failed = sum(part.images for part in counts.values()), sum(len(part.failed) for part in counts.values())
    total = next((f" of {part.images:,}" for part in counts), "")
    args.output.show(
        f"{args.predictions}: of {len(counts)} parts {', '.join(texts)}; {images:,}{total} images are predicted, "
        f"{failed:,} could not be read"
        if counts
        else f"{args.predictions}: all images are predicted and joined"
    )
    rows = [(part.number, states[part], done.images, len(done.failed)) for part, done in counts.items()]
    args.output.result({"parts": [dict(zip(("part", "state", "images", "failed"), row, strict=True)) for row in rows]})
    return 0
