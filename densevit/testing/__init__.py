"""The kit that proves a backbone or a head: whoever writes one runs it, in a test or as `densevit check`."""

from densevit.testing.backbones import backbone_checks, check_backbone
from densevit.testing.heads import check_head, head_checks
from densevit.testing.results import CheckFailed, Result
from densevit.testing.targets import random_targets

__all__ = [
    "CheckFailed",
    "Result",
    "backbone_checks",
    "check_backbone",
    "check_head",
    "head_checks",
    "random_targets",
]
