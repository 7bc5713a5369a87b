"""A DETR whose queries are boxes, with parts of several papers for short runs of small models."""

from densevit_heads.box_query_detr.head import BoxQueryDetr

__all__ = ["BoxQueryDetr"]
