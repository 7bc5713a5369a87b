"""Reads focal lengths from EXIF."""

import io
import math
import os

from PIL import ExifTags, Image

from densevit.data.io.image_opening import open_image

_MILLIMETRES = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}  # per unit of FocalPlaneResolutionUnit
_FULL_FRAME = math.hypot(36, 24)  # millimetres; focal lengths in terms of 35 mm film refer to this diagonal


def exif_focal(source: str | os.PathLike[str] | bytes | Image.Image) -> float | None:
    """The focal length in pixels of an image file, of a file's content or of an opened image: from
    FocalLengthIn35mmFilm, or else from FocalLength and FocalPlaneXResolution. None without them, and for files that are
    no images."""
    try:
        if isinstance(source, Image.Image):
            focal = _focal(source)
        else:
            with open_image(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                focal = _focal(image)
    except Exception:  # of damaged EXIF and other files: struct.error, SyntaxError, TypeError and more
        return None
    return focal if 0 < focal < math.inf else None


def _focal(image: Image.Image) -> float:
    """The focal length; 0 or nan without it."""
    tags, base = Image.Image.getexif(image).get_ifd(ExifTags.IFD.Exif), ExifTags.Base
    if film := float(tags.get(base.FocalLengthIn35mmFilm, 0)):
        return film * math.hypot(*image.size) / _FULL_FRAME
    unit = _MILLIMETRES.get(tags.get(base.FocalPlaneResolutionUnit, 2), math.nan)
    width, height = (float(tags.get(tag, 0)) for tag in (base.ExifImageWidth, base.ExifImageHeight))
    # The size before the image was resized; that of an image turned by 90 degrees may have its sides exchanged.
    scale = max(image.size) / max(width, height) if width and height else image.width / (width or image.width)
    return float(tags.get(base.FocalLength, 0)) * float(tags.get(base.FocalPlaneXResolution, 0)) / unit * scale
