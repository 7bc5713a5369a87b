"""Images per second that one core renders. python tools/benchmarks/scenes.py [--size 128] [--count 500]"""

import argparse
import time

import cv2
import torch

from densevit_scenes.dataset import Scenes


def rate(dataset: Scenes, rounds: int = 3) -> float:
    """Images per second of processor time of this process, in the best of some rounds."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        for index in range(len(dataset)):
            dataset[index]
        seconds.append(time.process_time() - start)
    return len(dataset) / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--count", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    Scenes("train", image_size=args.size, train_length=20)[0]  # makes the patterns
    rows = {
        "boxes, masks, semantic map and depth": {},
        "boxes alone": {"masks": False, "semantic": False, "depth": False},
    }
    for name, options in rows.items():
        dataset = Scenes("train", image_size=args.size, train_length=args.count, **options)
        print(f"{name:40}{rate(dataset):8.0f} images per second at {args.size} x {args.size}")


if __name__ == "__main__":
    main()
