"""The head of fully convolutional networks (FCN, Long et al. 2015)."""

from densevit_heads.fcn.head import Fcn

__all__ = ["Fcn"]
