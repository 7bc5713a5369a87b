"""Image inputs of `predict`: files, folders, patterns, videos, URLs, bytes, file objects, PIL images, arrays and
tensors."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from densevit.channels import RGB, Channels
from densevit.data.datasets.paired_files import IMAGES, UNREAD, unread_images
from densevit.data.io import videos
from densevit.data.io.channel_files import SUFFIXES as CHANNEL_FILES
from densevit.data.io.channel_files import decode_pixels, read_pixels, with_channels
from densevit.data.io.images import check_bits, decode_image, read_image, to_rgb
from densevit.data.io.tiff import check_bands, without_mapping
from densevit.errors import DataError, DensevitError, warn_once
from densevit.inference.downloads import check_scheme, download
from densevit.interfaces import Sample
from densevit.paths import user_path

SUFFIXES = (*IMAGES, ".gif", ".ppm", ".pgm")
_UNREAD = {*UNREAD}.difference(SUFFIXES)
_STREAM = re.compile(
    r"(rtsps?|rtmps?|rtp|udp|tcp|srt|mmsh?|hls|v4l2)://|/dev/video|(webcam|camera|cam|screen|\s*\d+\s*)$", re.IGNORECASE
)
_KINDS = "a path, a URL, bytes, a file object, a PIL image, an array or a tensor"
_ARRAY = "(H, W, 3) or (H, W)"
_TENSOR = "(3, H, W), (1, H, W) or (H, W)"


class VideoFrame(NamedTuple):
    """A frame of a video by its number from 0. pixels: (H, W, 3) uint8."""

    path: Path
    number: int
    pixels: np.ndarray


def as_images(inputs: Any) -> tuple[list[Any], bool]:
    """Returns the images of an input of `predict`, and whether it is a single image.

    An array or a tensor with four dimensions is a batch; any other iterable contains images.
    """
    if isinstance(inputs, np.ndarray | Tensor):
        return (list(inputs), False) if inputs.ndim == 4 else ([inputs], True)
    single = isinstance(inputs, str | os.PathLike | bytes | bytearray | memoryview | Image.Image)
    if single or hasattr(inputs, "read") or not isinstance(inputs, Iterable):
        return [inputs], True
    return list(inputs), False


def as_sample(image: Any, image_id: int | str, channels: Channels = RGB) -> Sample:
    """Converts an image to a sample without labels.

    Files, URLs, bytes and file objects are decoded like `read_image`; PIL images are rotated by their EXIF orientation.
    Arrays are (H, W, 3) or (H, W), tensors (3, H, W), (1, H, W) or (H, W), in RGB: uint8, or floats in 0 ... 1. Raises
    DataError for other inputs and for unreadable files.

    channels: those of the model. Images of others than RGB of 8 bits are files that `read_pixels` reads, arrays
    (H, W, C) and tensors (C, H, W), with the values of the files.
    """
    name = f"image {image_id}"
    array = _pixels(image, name) if channels.is_rgb else _channel_pixels(image, name, channels)
    pixels = torch.from_numpy(array).permute(2, 0, 1)
    size = (pixels.shape[1], pixels.shape[2])
    return {"image": pixels, "targets": {"image_id": image_id, "size": size, "original_size": size}}


def images_of(source: Any) -> Iterator[Path | VideoFrame] | None:
    """Iterates over the image files of a folder or a pattern, or the frames of a video, as `densevit predict` does.
    Returns None for other inputs. Frames are decoded lazily.

    Raises DataError for a folder or a pattern without images.
    """
    if not isinstance(source, str | os.PathLike) or "://" in str(source):
        return None
    path = user_path(source)
    is_video = path.suffix.lower() in videos.SUFFIXES and path.is_file()
    is_pattern = isinstance(source, str) and glob.has_magic(source) and not path.exists()
    if not (path.is_dir() or is_video or is_pattern):
        return None
    return _each_image(find_files(os.fspath(source)))


def find_files(source: str) -> list[str]:
    """Returns the image and video files of a path, a folder or a pattern. Raises DataError if there are none."""
    if not source.strip():
        raise DataError("'' names no image: expected a file, a folder, a pattern or a URL.")
    _check_no_stream(source)
    if "://" in source:
        check_scheme(source)
    path = user_path(source)
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        return _in_folder(path, source)
    if not glob.has_magic(source):
        raise DataError(f"{source}: there is no such file or folder.")
    named = tuple(suffix for suffix in CHANNEL_FILES if source.lower().endswith(suffix))
    suffixes = (*SUFFIXES, *videos.SUFFIXES, *named)
    matches = {match for match in glob.iglob(str(path), recursive=True) if match.lower().endswith(suffixes)}
    files = (file for folder in {*map(os.path.dirname, matches)} for file in _files_in(folder, suffixes))
    images = sorted(matches.intersection(files), key=lambda file: file.replace(os.sep, "\0"))  # by folder
    if not images:
        raise DataError(f"{source}: the pattern matches no image; expected {', '.join(SUFFIXES)}.")
    return images


def _each_image(files: Sequence[str]) -> Iterator[Path | VideoFrame]:
    for file in map(Path, files):
        if file.suffix.lower() in videos.SUFFIXES:
            for number, pixels in enumerate(videos.frames(file)):
                yield VideoFrame(file, number, pixels)
        else:
            yield file


def _in_folder(folder: Path, source: str) -> list[str]:
    """Returns the images of a folder without subfolders. Warns of files of formats that are not read."""
    files = sorted(_files_in(str(folder), (*SUFFIXES, *_UNREAD)))
    images = [file for file in files if file.lower().endswith(SUFFIXES)]
    if not images:
        below = any(path.name.lower().endswith(SUFFIXES) and path.is_file() for path in folder.rglob("[!.]*"))
        hint = f" For those of its subfolders, use '{folder / '**' / '*.*'}'." if below else ""
        raise DataError(f"{source}: no images in this folder; expected {', '.join(SUFFIXES)}.{hint}")
    others = [file for file in files if file.lower().endswith(tuple(_UNREAD))]
    stems = {os.path.splitext(file)[0] for file in images if others}
    unread = [os.path.basename(file) for file in others if os.path.splitext(file)[0] not in stems]
    for problem in unread_images(folder, unread, len(images)):
        warn_once(problem.message)
    return images


def _files_in(folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yields the files of a folder with these suffixes, without hidden ones. Only links are looked up: the type of
    other files is in the folder."""
    with os.scandir(folder or os.curdir) as entries:
        for entry in entries:
            if (
                entry.name.lower().endswith(suffixes)
                and not entry.name.startswith(".")
                and (os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file())
            ):
                yield os.path.join(folder, entry.name)


def _check_no_stream(source: str) -> None:
    """Raises DataError for the address of a stream or a camera: `rtsp://...`, `0`, `webcam`, `/dev/video0`."""
    if _STREAM.match(source) and not (user_path(source).is_file() or user_path(source).is_dir()):
        raise DataError(
            f"{source}: streams are not supported. Expected files. Fix: save frames, for example with `ffmpeg -i "
            "SOURCE -vf fps=1 frames/%06d.jpg`, and give that folder; or read frames in Python, and pass each to "
            "Predictor.predict as an array."
        )


def _pixels(image: Any, name: str) -> np.ndarray:
    """Returns (H, W, 3) uint8. name: names the image in messages if it is not a file."""
    if isinstance(image, VideoFrame):
        return image.pixels
    if isinstance(image, str):
        _check_no_stream(image)
    if isinstance(image, str) and "://" in image:
        return decode_image(download(image), image)
    if isinstance(image, str | os.PathLike):
        path = user_path(image)
        if path.is_dir() or (path.suffix.lower() in videos.SUFFIXES and path.is_file()):
            what = "a folder" if path.is_dir() else "a video"
            raise DataError(f"{image} is {what} in a list of images. Fix: pass it alone: predict({str(image)!r}).")
        return read_image(path)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image), name)
    if isinstance(image, Image.Image):
        return _of_pil(image, name)
    if isinstance(image, np.ndarray):
        return _of_array(image, name)
    if isinstance(image, Tensor):
        return _of_tensor(image, name)
    if hasattr(image, "read"):
        return _of_file(image, name)
    raise DataError(f"{name} is a {type(image).__name__}. Expected {_KINDS}.")


def _channel_pixels(image: Any, name: str, channels: Channels) -> np.ndarray:
    """Returns (H, W, C) of these channels. Raises DataError for other inputs."""
    if isinstance(image, str) and "://" in image:
        return decode_pixels(download(image), image, channels)
    if isinstance(image, str | os.PathLike):
        return read_pixels(user_path(image), channels)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_pixels(bytes(image), name, channels)
    if hasattr(image, "read"):
        return decode_pixels(*_content(image, name), channels)
    array = image.detach().cpu().movedim(0, -1).numpy() if isinstance(image, Tensor) and image.ndim == 3 else image
    if isinstance(array, Image.Image):
        array = np.asarray(array)
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3):
        found = f"of shape {tuple(image.shape)}" if isinstance(image, np.ndarray | Tensor) else "which is not supported"
        raise DataError(f"{name} is a {type(image).__name__} {found}. Expected {_KINDS} of {channels}.")
    try:
        return _for_torch(with_channels([_not_empty(array.reshape(*array.shape[:2], -1), name)], channels))
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def _of_file(file: Any, name: str) -> np.ndarray:
    return decode_image(*_content(file, name))


def _content(file: Any, name: str) -> tuple[bytes, str]:
    """Returns the content and the name of a file object."""
    name = str(getattr(file, "name", "") or f"{name}, a {type(file).__name__}")
    data = file.read()
    if not isinstance(data, bytes):
        raise DataError(f"{name} was opened as text. Fix: open it with mode 'rb'.")
    if not data:
        raise DataError(f"{name} is empty, or was read before. Fix: file.seek(0).")
    return data, name


def _of_pil(image: Image.Image, name: str) -> np.ndarray:
    name = str(getattr(image, "filename", "") or name)
    try:
        check_bands(image)
        check_bits(image)
        with without_mapping(image):
            pixels = to_rgb(ImageOps.exif_transpose(image))
    except DensevitError as error:
        raise DataError(f"{name}: {error}") from None
    except Exception as error:  # PIL decodes the file only now; it may be damaged
        raise DataError(f"{name} cannot be read: {error}. Is the file damaged or cut short?") from error
    return _not_empty(pixels, name)


def _of_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] == 3):
        fix = ""
        if array.ndim == 3 and array.shape[0] in (1, 3):
            fix = " Fix: image.transpose(1, 2, 0), or pass a tensor."
        elif array.ndim == 3 and array.shape[2] == 4:
            fix = " Fix: remove the fourth channel, image[..., :3]."
        raise DataError(f"{name} is an array of shape {array.shape}. Expected {_ARRAY}, in RGB.{fix}")
    pixels = _as_8_bits(_not_empty(array, name), name, "an array")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return _for_torch(pixels)


def _of_tensor(tensor: Tensor, name: str) -> np.ndarray:
    shape = tuple(tensor.shape)
    if tensor.ndim != 2 and not (tensor.ndim == 3 and shape[0] in (1, 3)):
        fix = ""
        if tensor.ndim == 3 and shape[2] in (1, 3):
            fix = " Fix: image.permute(2, 0, 1)."
        elif tensor.ndim == 3 and shape[0] == 4:
            fix = " Fix: remove the fourth channel, image[:3]."
        raise DataError(f"{name} is a tensor of shape {shape}. Expected {_TENSOR}, in RGB.{fix}")
    tensor = tensor.detach().cpu()
    tensor = tensor.float() if tensor.is_floating_point() else tensor  # numpy has no bfloat16
    array = tensor.numpy() if tensor.ndim == 2 else tensor.permute(1, 2, 0).numpy()
    pixels = _as_8_bits(_not_empty(array, name), name, "a tensor")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return _for_torch(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _for_torch(pixels: np.ndarray) -> np.ndarray:
    """Returns a contiguous, writable array without negative strides, as torch needs; copies only if necessary."""
    if min(pixels.strides) < 0:  # numpy considers a single row or column contiguous
        return pixels.copy()
    return np.require(pixels, requirements=["C", "W"])


def _as_8_bits(values: np.ndarray, name: str, kind: str) -> np.ndarray:
    """Returns uint8 unchanged and rounds floats in 0 ... 1 to multiples of 1/255."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f":
        least, most = float(values.min()), float(values.max())
        if least >= 0 and most <= 1:
            return np.rint(values * 255).astype(np.uint8)
        found = f"{values.dtype} from {least:g} to {most:g}"
        if least >= 0 and most <= 255:
            fix = "divide it by 255"
        else:
            fix = "pass the image without normalisation; the model normalises it"
    else:
        found, fix = str(values.dtype), "convert it to uint8"
    raise DataError(f"{name} is {kind} of {found}. Expected uint8 in 0 ... 255, or floats in 0 ... 1. Fix: {fix}.")


def _not_empty(pixels: np.ndarray, name: str) -> np.ndarray:
    if not pixels.size:
        raise DataError(f"{name} has no pixels: its shape is {pixels.shape}.")
    return pixels
