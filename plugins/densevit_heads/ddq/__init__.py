"""DDQ (Zhang et al. 2023): queries are distinct dense predictions."""

from densevit_heads.ddq.head import Ddq

__all__ = ["Ddq"]
