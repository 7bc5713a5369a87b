"""Whether a COCO json's boxes are on the upright images, rotated by EXIF, or on the stored pixels.

An EXIF orientation of 5 to 8 exchanges height and width. Programs write either size: labelme annotates the upright
image and writes its size; Label Studio annotates the upright image and writes the stored size; programs that ignore
EXIF annotate the stored pixels and write the stored size.
"""

from typing import Literal

from densevit.data.io.rgb_files import Header
from densevit.interfaces import Size

Grid = Literal["upright", "stored"]


def annotated_grid(json_size: Size, header: Header, boxes: Grid | None) -> tuple[Size, bool]:
    """Returns the size of an image's annotated grid, and whether it is upright. boxes: the user's choice.

    | json_size | the boxes are on |
    |---|---|
    | the upright size, if the stored size differs | the upright image |
    | the stored size, if the upright size differs | the stored pixels, unless `boxes` is upright |
    | both sizes, or unknown (0) | the upright image, unless `boxes` is stored |
    """
    if header.upright_size == header.size or 0 in json_size:
        is_upright = boxes != "stored"
    else:
        is_upright = json_size == header.upright_size or boxes == "upright"
    return header.upright_size if is_upright else header.size, is_upright
