"""Whether a COCO json's boxes are on upright images, rotated by EXIF, or on the pixels as they are stored.

The upright image of a photo with an EXIF orientation of 5 to 8 has its height and width exchanged. Programs write
either size: labelme annotates the upright image and writes its size; Label Studio annotates the upright image and
writes the stored size; programs that ignore EXIF annotate the stored pixels and write their size.
"""

from typing import Literal

from densevit.data.io.rgb_files import Header
from densevit.interfaces import Size

Grid = Literal["upright", "stored"]


def annotated_grid(given: Size, header: Header, boxes: Grid | None) -> tuple[Size, bool]:
    """Returns the size of an image's annotated grid, and whether it is upright. boxes: the user's choice.

    | given, the json's size | the boxes are on |
    |---|---|
    | the upright size, which is not the stored one | the upright image |
    | the stored size, which is not the upright one | the stored pixels, unless `boxes` is upright |
    | the size of both, or none (0) | the upright image, unless `boxes` is stored |
    """
    if header.upright_size == header.size or 0 in given:
        is_upright = boxes != "stored"
    else:
        is_upright = given == header.upright_size or boxes == "upright"
    return header.upright_size if is_upright else header.size, is_upright
