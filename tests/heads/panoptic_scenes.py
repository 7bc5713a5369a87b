"""Rendered scenes with panoptic truth: annotated things by their masks, surfaces by the label map, the rest void."""

import numpy as np
import torch

from densevit.interfaces import Dataset, Sample
from densevit_scenes.dataset import Scenes, Split


class PanopticScenes(Dataset):
    """Scenes whose only target is `panoptic`."""

    provides = ("panoptic",)

    def __init__(
        self,
        split: Split,
        image_size: int | tuple[int, int] = 64,
        train_length: int = 4,
        val_length: int = 2,
    ) -> None:
        self.scenes = Scenes(split, image_size, train_length, val_length)
        self.classes = {"panoptic": self.scenes.classes["segmentation"]}

    def __len__(self) -> int:
        return len(self.scenes)

    def sizes(self) -> np.ndarray:
        return self.scenes.sizes()

    def __getitem__(self, index: int) -> Sample:
        sample = self.scenes[index]
        targets = sample["targets"]
        semantic = targets["semantic"].int()
        stuff = torch.tensor([not one.thing for one in self.classes["panoptic"]])[semantic]
        panoptic = torch.where(stuff, semantic * 1000, -1)
        for number, (mask, label) in enumerate(zip(targets["masks"], targets["labels"].tolist(), strict=True)):
            panoptic[mask] = label * 1000 + number
        return {"image": sample["image"], "targets": {"image_id": targets["image_id"], "panoptic": panoptic.int()}}
