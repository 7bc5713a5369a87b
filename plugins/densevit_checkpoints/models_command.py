"""Lists published models with their parameters, published scores and licences.

Prints a table for each task and benchmark, and what the authors state on the licences. Scores are the authors'.
"""

from argparse import ArgumentParser, Namespace

EXAMPLES = """examples:
  densevit models rf-detr
  densevit models --task depth apache
  densevit models --task backbone timm convnext --json
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "words", metavar="WORD", nargs="*", help="list only models with all words in name, data set, recipe or licences"
    )
    parser.add_argument("--task", help="list only models of this task, or backbones, also timm's: backbone")


def run(args: Namespace) -> int:
    from dataclasses import asdict

    from densevit_checkpoints.model_list import ModelList, list_models

    models = ModelList(
        row for row in list_models(args.task) if all(word.lower() in str(asdict(row)).lower() for word in args.words)
    )
    more = [] if args.task else ["Also timm's backbones: densevit models --task backbone WORD"]
    args.output.show(models or f"No published model has the words {' '.join(args.words)}.", *more)
    args.output.result({"models": [asdict(model) for model in models]})
    return 0
