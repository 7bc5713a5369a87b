"""Reads the things of COCO's panoptic format as boxes and masks; stuff, which has no boxes, is left out."""

from collections import Counter
from pathlib import Path

from densevit.channels import RGB, Channels
from densevit.data.datasets.coco_panoptic import CocoPanoptic
from densevit.data.io.folders import files_below
from densevit.data.io.text_files import read_text
from densevit.errors import DataError
from densevit_workbench.interchange.annotated import (
    Annotated,
    AnnotatedImage,
    AnnotatedObject,
    folder_split,
    image_files,
    image_inventory,
    object_count,
    object_inventory,
)
from densevit_workbench.interchange.faults import Faults

_SPLITS = ("train", "val", "test")


def read_panoptic(source: Path, faults: Faults, channels: Channels | None = None) -> Annotated:
    """Reads a panoptic json, or a folder with one per split, with the PNGs in the folder of the json's name, and the
    images below `source`."""
    root = source.parent if source.is_file() else source
    files = [source] if source.is_file() else files_below(source, (".json",))
    files = [file for file in files if '"segments_info"' in read_text(file)]
    if not files:
        raise DataError(f"{source}: no json in COCO's panoptic format is found.")
    splits: dict[str, list[AnnotatedImage]] = {}
    classes: dict[int, str] = {}
    for file in files:
        split = next((name for name in _SPLITS if name in file.stem.lower()), folder_split(file, root))
        dataset = _dataset(file, root, channels or RGB)
        things = dataset.classes["detection"]
        classes |= {thing.file_id: thing.name for thing in things}
        images = splits.setdefault(split if len(files) > 1 else "", [])
        for index in range(len(dataset)):
            with faults.collecting():
                targets = dataset[index]["targets"]
                height, width = targets["panoptic"].shape
                rows = zip(
                    targets["boxes"].tolist(),
                    targets["labels"],
                    targets["masks"].codes(),
                    targets["area"],
                    targets["iscrowd"],
                    strict=True,
                )
                objects = [
                    AnnotatedObject(
                        things[int(label)].name,
                        (x0, y0, x1 - x0, y1 - y0),
                        {"size": [height, width], "counts": code.decode()},
                        bool(crowd),
                        float(area),
                    )
                    for (x0, y0, x1, y1), label, code, area, crowd in rows
                ]
                images.append(AnnotatedImage(Path(dataset.path(index)), height, width, tuple(objects)))
    faults.check(source, splits)
    wanted = [image.path for images in splits.values() for image in images]
    inventories = (
        image_inventory(root, wanted, splits, "in no json", channels, lambda path: "panoptic" not in path.parent.name),
        object_inventory("object", object_count(splits), (), root, faults),
    )
    ids = sorted(classes)
    return Annotated(tuple(classes[i] for i in ids), splits, tuple(ids), inventories=inventories)


def _dataset(file: Path, root: Path, channels: Channels) -> CocoPanoptic:
    """The images and segments of a json: PNGs in the folder of its name, images in the folder with most of them."""
    names = [file.with_suffix("").relative_to(root), Path("panoptic"), Path(file.parent.name)]
    segments = next((name for name in names if (root / name).is_dir()), names[0])
    stems = {path.stem for path in (root / segments).glob("*.png")}
    paths = (path for path in image_files(root, channels) if path.stem in stems)
    counts = Counter(path.parent for path in paths if path.parent != root / segments)
    images = max(counts, key=lambda folder: counts[folder], default=root)
    jsons = file.with_name(f"{{split}}{file.suffix}")  # the complete json is a split
    annotations, segment_folder, image_folder = (str(path.absolute()) for path in (jsons, root / segments, images))
    return CocoPanoptic(
        file.stem,
        str(root),
        annotations=annotations,
        segments=segment_folder,
        images=image_folder,
        masks=True,
        outside_paths=True,
        channels=channels,
    )
