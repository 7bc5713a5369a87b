"""Shows how far the parts of a prediction are, in one line."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

EXAMPLES = """examples:
  densevit predictions status found"""

_LISTED = 10  # parts


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("predictions", metavar="DIR", type=Path, help="the folder of densevit predict")


def run(args: Namespace) -> int:
    from densevit.inference.prediction_folder import parts_of

    parts, total = [], 0
    for part in parts_of(args.predictions):
        counts, total = part.counts, part.images
        state, failed = part.state(counts), len(counts.failed)
        parts.append({"part": part.number, "state": state, "images": counts.images, "failed": failed})
    if not parts:
        args.output.show(f"{args.predictions}: all images are predicted and joined")
    else:
        images, failed = (sum(part[key] for part in parts) for key in ("images", "failed"))
        new = [str(part["part"]) for part in parts if part["state"] == "not begun"]
        begun = [f"{part['part']}: {part['state']}" for part in parts if part["state"] not in ("not begun", "complete")]
        args.output.show(
            f"{args.predictions}: of {len(parts)} parts {len(parts) - len(new) - len(begun)} complete, "
            f"{len(begun)} begun{_listed(begun)}, {len(new)} not begun{_listed(new)}; {images:,} of {total:,} images "
            f"are predicted, {failed:,} could not be read"
        )
    args.output.result({"parts": parts})
    return 0


def _listed(numbers: list[str]) -> str:
    return "" if not numbers else f" ({', '.join(numbers[:_LISTED])}{', ...' if len(numbers) > _LISTED else ''})"
