"""Small data sets in the official layouts: COCO, label maps and depth maps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from densevit.layouts import coco_classes, coco_panoptic_classes
from tests.written_files import save_image, write_text

LAYOUTS: dict[str, tuple[str, str, str | None, dict[str, str], list[int]]] = {
    # section: image, label, list file, names of the splits, label values
    "ade20k": (
        "images/{split}/ADE_{split}_0000000{i}.jpg",
        "annotations/{split}/ADE_{split}_0000000{i}.png",
        None,
        {"train": "training", "val": "validation"},
        [0, 1, 4, 13, 150],
    ),
    "camvid": ("images/{split}/0001TP_{i}.png", "labels/{split}/0001TP_{i}.png", None, {}, [0, 3, 8, 10, 11]),
    "cityscapes": (
        "leftImg8bit/{split}/ulm/ulm_00000{i}_000019_leftImg8bit.png",
        "gtFine/{split}/ulm/ulm_00000{i}_000019_gtFine_labelIds.png",
        None,
        {},
        [0, 3, 7, 11, 26, 33],
    ),
    "label_maps": ("images/{split}/{i}.jpg", "labels/{split}/{i}.png", None, {}, [0, 1, 2, 255]),
    "voc": (
        "JPEGImages/2007_{i}_{split}.jpg",
        "SegmentationClass/2007_{i}_{split}.png",
        "ImageSets/Segmentation/{split}.txt",
        {},
        [0, 1, 20, 255],
    ),
}


def make_label_maps(section: str, root: Path, size: tuple[int, int]) -> Path:
    """Two images per split of `size` (h, w), blocks of the label's values, in the layout of the official archives."""
    image, label, listed, spelled, values = LAYOUTS[section]
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        names = []
        for i in range(2):
            blocks = rng.choice(np.array(values, np.uint8), (4, 4))
            pixels = blocks.repeat(-(-size[0] // 4), 0).repeat(-(-size[1] // 4), 1)[: size[0], : size[1]]
            shown = np.stack([pixels, 255 - pixels, pixels * 7], axis=-1)
            for pattern, array in ((image, shown), (label, pixels)):
                save_image(root / pattern.format(split=spelled.get(split, split), i=i), array)
            names.append(Path(image.format(split=split, i=i)).stem)
        if listed:
            write_text(root / listed.format(split=split), "\n".join(names))
    return root


def make_depth_maps(data: str, root: Path, sizes: list[tuple[int, int]]) -> Path:
    """An image for each of `sizes` (h, w) per split, in the layout of BTS's lists, with a focal length in each line.

    NYU's PNGs are in millimetres, with an unknown border; KITTI's 1/256 m, in a 20th of the lower two thirds.
    """
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        lines = []
        for i, (height, width) in enumerate(sizes):
            metres = (3 + 40 * (data == "kitti")) * (1.2 - np.linspace(0, 1, height))[:, None].repeat(width, 1)
            if data == "nyu":
                scene = f"{'/' if split == 'train' else ''}kitchen_0028b"  # the train list's paths begin with a slash
                image, depth = f"{scene}/rgb_0004{i}.jpg", f"{scene}/sync_depth_0004{i}.png"
                folder = root / {"train": "sync", "test": "official_splits/test"}[split]
                files = folder / image.lstrip("/"), folder / depth.lstrip("/")
                metres[:8] = metres[:, :8] = 0
                stored, focal = 1000 * metres, 518.8579
            else:
                drive, frame = "2011_09_26_drive_0057_sync", f"{int(split == 'test')}{i:09d}.png"
                image = f"2011_09_26/{drive}/image_02/data/{frame}"
                depth = f"{drive}/proj_depth/groundtruth/image_02/{frame}"
                official = {"train": "train", "test": "val"}[split]
                files = root / image, root / "data_depth_annotated" / official / depth
                metres[(rng.random(metres.shape) > 0.05) | (np.arange(height)[:, None] < height // 3)] = 0
                stored, focal = 256 * metres, 721.5377
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            for file, array in zip(files, (pixels, stored.astype(np.uint16)), strict=True):
                save_image(file, array)
            lines.append(f"{image} {depth} {focal}")
        if data == "kitti" and split == "test":
            lines.append(lines[0].replace("0000000", "0000099").split()[0] + " None 721.5377")
        prefix = {"nyu": "nyudepthv2", "kitti": "eigen"}[data]
        (root / f"{prefix}_{split}_files_with_gt.txt").write_text("\n".join(lines) + "\n")
    return root


def make_coco(root: Path, size: tuple[int, int]) -> Path:
    """Two images per split of `size` (h, w): stripes of a dog and of sky, in COCO's instance and panoptic layouts."""
    h, w = size
    ids = np.full(size, 7, np.uint8)
    ids[:, np.arange(w) // 8 % 2 == 1] = 9
    rng = np.random.default_rng(0)
    things = [{"id": one.file_id, "name": one.name} for one in coco_classes()]
    categories = [{"id": c.file_id, "name": c.name, "isthing": int(c.thing)} for c in coco_panoptic_classes()]
    dog, sky = ({c["name"]: c["id"] for c in categories}[one] for one in ("dog", "sky-other-merged"))
    mask = rle.encode(np.asfortranarray((ids == 7).astype(np.uint8)))
    mask["counts"] = mask["counts"].decode()
    for split in ("train2017", "val2017"):
        folder = root / "annotations" / f"panoptic_{split}"
        images: list[dict[str, Any]] = []
        objects, segments = [], []
        for i in (1, 2):
            save_image(root / split / f"{i}.jpg", rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
            save_image(folder / f"{i}.png", np.stack([ids, 0 * ids, 0 * ids], axis=2))
            images.append({"id": i, "file_name": f"{i}.jpg", "height": h, "width": w})
            thing = {"category_id": dog, "bbox": [0, 0, w, h], "area": int((ids == 7).sum()), "iscrowd": 0}
            stuff = {"category_id": sky, "bbox": [8, 0, w - 8, h], "area": int((ids == 9).sum()), "iscrowd": 0}
            objects.append({"id": i, "image_id": i, "segmentation": mask, **thing})
            found = [{"id": 7, **thing}, {"id": 9, **stuff}]
            segments.append({"image_id": i, "file_name": f"{i}.png", "segments_info": found})
        for kind, content in {
            "instances": {"categories": things, "annotations": objects},
            "panoptic": {"categories": categories, "annotations": segments},
        }.items():
            (root / "annotations" / f"{kind}_{split}.json").write_text(json.dumps({"images": images, **content}))
    return root
