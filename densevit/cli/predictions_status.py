"""Shows how far the parts of a prediction are, in one line."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

EXAMPLES = """examples:
  densevit predictions status found"""

_LISTED = 10  # parts


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("predictions", metavar="DIR", type=Path, help="the folder of densevit predict")


def run(args: Namespace) -> int:
    from densevit.cli.prediction_files import read_settings
    from densevit.cli.prediction_parts import COMPLETE, PARTS, Part

    settings = read_settings(args.predictions)
    if PARTS not in settings:
        args.output.show(f"{args.predictions} has no parts: one process predicts it, or they are joined")
        args.output.result({"parts": []})
        return 0
    count = settings[PARTS]
    states = [Part(args.predictions, number, count).state() for number in range(1, count + 1)]
    by_name: dict[str, list[str]] = {}
    for number, state in enumerate(states, 1):
        by_name.setdefault(state.name, []).append(str(number))
    images, failed = sum(state.images for state in states), sum(state.failed for state in states)
    texts = [f"{len(found)} {name}" + _listed(found) * (name != COMPLETE) for name, found in by_name.items()]
    total = settings["list"].partition(",")[0]
    args.output.show(
        f"{args.predictions}: of {count} parts {', '.join(texts)}; {images:,} of {total} are predicted, {failed:,} "
        "could not be read"
    )
    args.output.result({"parts": [state._asdict() for state in states]})
    return 0


def _listed(numbers: list[str]) -> str:
    return f" ({', '.join(numbers[:_LISTED])}{', ...' if len(numbers) > _LISTED else ''})"
