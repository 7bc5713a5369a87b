"""Fine-tunes a detector on a folder of images with COCO annotations, and predicts on one image.

    python examples/fine_tune.py ~/my_folder backbone=efficientnet_lite0

The folder has train/ and val/, each with images and annotations.json; see docs/own-data.md.
"""

import sys
from pathlib import Path

import densevit


def main(root: str, *overrides: str) -> densevit.Run:
    run = densevit.fit("detr_swin", overrides=["data=folder", f"data.root={root}", "optim.lr=2e-4", *overrides])
    print(run.path, run.metrics)
    image = next(path for path in Path(root).expanduser().glob("val/**/*") if path.suffix in (".jpg", ".png"))
    result = run.model.predict(image)
    print(image, list(zip(result.names, result.scores.tolist(), strict=True)))
    result.save(run.path / "first.jpg")
    return run


if __name__ == "__main__":
    main(*sys.argv[1:])
