"""Predicts the images of a folder or a bucket with Ray Data, and writes Parquet: one row per image.

    pip install 'ray[data]'
    python examples/ray_predict.py runs/detr_swin photos found
    python examples/ray_predict.py runs/detr_swin s3://bucket/photos s3://bucket/found --actors 8 --gpus 1

Each actor has a copy of the model. If an actor dies, its block of images is predicted again by another one; a block
with which two actors die is left out if --lost allows it. An image that cannot be read is a row with its `error`. The
the columns are described at `densevit.BatchPredictor`; `pandas.read_parquet("found")` reads all files.

Not run: --gpus, also as a fraction, such as 0.25 for four actors on one GPU.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import pyarrow
import ray

import densevit


class Rows(densevit.BatchPredictor):
    """Predictions as an Arrow table, which has the same column types for blocks without objects."""

    def __call__(self, batch: Any) -> Any:
        return pyarrow.table(super().__call__(batch))


def predict(model: str, images: str, out: str, actors: int = 2, gpus: float = 0, lost: int = 0, **options: Any) -> None:
    """Writes the rows of all images to a new folder. lost: the number of blocks that may fail. options: those of
    `densevit.BatchPredictor`."""
    ray.data.DataContext.get_current().max_errored_blocks = lost
    files = ray.data.read_binary_files(images, include_paths=True)
    rows = files.map_batches(
        Rows,
        fn_constructor_args=[model],
        fn_constructor_kwargs={"device": "cuda" if gpus else "cpu", **options},
        batch_size=4 * options.get("batch_size", 8),
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
        num_cpus=0.5,  # as many actors as processors leave some for reading and writing, without which they would wait
        num_gpus=gpus,
        max_task_retries=1,
    )
    rows.write_parquet(out, mode=ray.data.SaveMode.CREATE)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("images")
    parser.add_argument("out")
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of an actor")
    parser.add_argument("--lost", type=int, default=0, help="number of blocks that may fail")
    predict(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
