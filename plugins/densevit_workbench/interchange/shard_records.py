"""Records of tar shards in WebDataset's naming: the files NUMBER.jpg, NUMBER.json, NUMBER.png and NUMBER.npz.

The image keeps the bytes of its file. One of other channels than RGB of 8 bits that has no file, or several, is
NUMBER.npy, the array (H, W, C). The json holds `image_id` and other plain values, the targets of objects, masks
as run-length codes, and under `files` the names of the other files. A label map is a PNG of class indices, 255 =
ignore; other maps are arrays of the NPZ, by key.
"""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from densevit.channels import RGB, Channels
from densevit.data.io.file_errors import naming_file
from densevit.data.io.images import read_image
from densevit.data.io.tar_members import RECORD_OWNER
from densevit.errors import DataError
from densevit.interfaces import Sample
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import is_metadata

INDEX = "index.json"  # of the folder
RECORDS = "records.npz"  # of a split: where each record stands
VERSION, WITH_CHANNELS = 1, 2  # of the index; the latter if a split has other channels than RGB of 8 bits


def encode(sample: Sample, path: str | None, channels: Channels = RGB) -> dict[str, bytes]:
    """Returns the files of a record by suffix. path: the image's file; None: the image is written as a PNG, of other
    channels than RGB of 8 bits as an NPY.

    Raises DataError for a target that is neither a tensor, nor masks, nor plain values.
    """
    suffix, image, upright = _image(sample["image"].permute(1, 2, 0).numpy(), path, channels)
    files, names = {suffix: image}, {"image": suffix}
    values: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    maps: dict[str, np.ndarray] = {}
    for key, value in sample["targets"].items():
        if isinstance(value, RunLengthMasks):
            masks[key] = [code.decode() for code in value.codes()]
        elif not isinstance(value, Tensor):
            if not (is_metadata(value) or isinstance(value, list)):
                raise DataError(f"The target {key!r} is a {type(value).__name__}, which shards cannot hold.")
            values[key] = value
        elif value.shape[-2:] != sample["image"].shape[1:]:
            kind = str(value.dtype).removeprefix("torch.")
            tensors[key] = {"dtype": kind, "shape": list(value.shape), "values": value.flatten().tolist()}
        elif value.dtype == torch.uint8 and value.ndim == 2 and "label map" not in names:
            names["label map"], names["key"] = "png" if suffix != "png" else "labels.png", key
            files[names["label map"]] = _png(value.numpy())
        else:
            maps[key] = value.numpy()
    if maps:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **maps)  # type: ignore[arg-type]
        names["maps"], files["npz"] = "npz", buffer.getvalue()
    head = {"files": names, "upright": upright, "values": values, "tensors": tensors, "masks": masks}
    return files | {"json": json.dumps(head, separators=(",", ":")).encode()}


def write(tar: tarfile.TarFile, name: str, files: Mapping[str, bytes]) -> None:
    """Appends a record. The same files give the same bytes: times are left out, all have one owner."""
    for suffix, content in files.items():
        member = tarfile.TarInfo(f"{name}.{suffix}")
        member.size, member.uname = len(content), RECORD_OWNER
        tar.addfile(member, io.BytesIO(content))


def decode(data: bytes, name: str, channels: Channels = RGB) -> Sample:
    """Returns the sample of a record. data: its bytes in the shard. name: the shard and the record, for messages.
    channels: those of the image.

    Raises UnreadableFileError if it is damaged.
    """
    with naming_file(name, "record", len(data)):
        files = _members(data)
        head = json.loads(files["json"])
        names = head["files"]
        image: bytes | np.ndarray = files[names["image"]]
        if names["image"] == "npy":
            image = np.load(io.BytesIO(files["npy"]), allow_pickle=False)
        pixels = read_image(image, channels, head["upright"], name=f"image .{names['image']}")
        size = (pixels.shape[0], pixels.shape[1])
        targets: dict[str, Any] = dict(head["values"])
        for key, tensor in head["tensors"].items():
            dtype = vars(torch).get(tensor["dtype"])
            if not isinstance(dtype, torch.dtype):
                raise DataError(f"its {key} has the dtype {tensor['dtype']!r}.")
            values = torch.tensor(tensor["values"], dtype=dtype)
            targets[key] = values.reshape(tensor["shape"])
        for key, counts in head["masks"].items():
            targets[key] = RunLengthMasks.from_codes([code.encode() for code in counts], size)
        if "label map" in names:
            labels = cv2.imdecode(np.frombuffer(files[names["label map"]], np.uint8), cv2.IMREAD_UNCHANGED)
            if labels is None or labels.shape != size:
                raise DataError("its label map is damaged.")
            targets[names["key"]] = torch.from_numpy(labels)
        if "maps" in names:
            with np.load(io.BytesIO(files[names["maps"]]), allow_pickle=False) as maps:
                targets |= {key: torch.from_numpy(maps[key]) for key in maps.files}
    return {"image": torch.from_numpy(pixels).permute(2, 0, 1), "targets": targets}


def _members(data: bytes) -> dict[str, bytes]:
    """Returns the files of a record by suffix."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is None:  # a link, possibly to itself, a FIFO, a device, or a sparse file of any size
                raise DataError(f"its member {member.name} is not a regular file.")
            files[member.name.partition(".")[2]] = content.read()
    return files


def _image(pixels: np.ndarray, path: str | None, channels: Channels) -> tuple[str, bytes, bool]:
    """Returns suffix and content of an image's file, and whether EXIF rotates it. pixels: (H, W, C), as decoded.

    The file is a PNG or an NPY if the data set has no file or several, or changes the image after reading it.
    """
    if path is not None and not channels.files and not path.lower().endswith(".npy"):
        with naming_file(path, "image"), open(path, "rb") as file:
            data = file.read()
        for upright in (True, False):
            if np.array_equal(read_image(data, channels, upright, path), pixels, equal_nan=pixels.dtype.kind == "f"):
                return os.path.splitext(path)[1][1:].lower() or "jpg", data, upright
    if not channels.is_rgb:
        buffer = io.BytesIO()
        np.save(buffer, pixels)
        return "npy", buffer.getvalue(), True
    return "png", _png(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)), True


def _png(pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise DataError(f"An array {pixels.shape} of {pixels.dtype} cannot be written as a PNG.")
    return data.tobytes()
