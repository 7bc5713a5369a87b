"""Checks of your own backbone or head, for tests and `densevit check`."""

from densevit.testing.backbones import backbone_checks, check_backbone
from densevit.testing.heads import check_head, head_checks
from densevit.testing.results import CheckFailed, CheckResult
from densevit.testing.targets import random_targets

__all__ = [
    "CheckFailed",
    "CheckResult",
    "backbone_checks",
    "check_backbone",
    "check_head",
    "head_checks",
    "random_targets",
]
