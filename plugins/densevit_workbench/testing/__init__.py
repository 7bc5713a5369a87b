"""Checks of your own backbone or head, for tests and `densevit check`."""

from densevit_workbench.testing.backbones import backbone_checks, check_backbone
from densevit_workbench.testing.heads import check_head, head_checks
from densevit_workbench.testing.results import CheckFailed, CheckResult
from densevit_workbench.testing.targets import random_targets

__all__ = [
    "CheckFailed",
    "CheckResult",
    "backbone_checks",
    "check_backbone",
    "check_head",
    "head_checks",
    "random_targets",
]
