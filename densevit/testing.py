"""Checks of a backbone, head or method, for tests and `densevit check`. Names are imported at first use."""

from typing import Any

from densevit import registry

_NAMES = (
    "CheckFailed",
    "CheckResult",
    "backbone_checks",
    "check_backbone",
    "check_export",
    "check_exported_predictions",
    "check_head",
    "check_method",
    "head_checks",
    "method_checks",
    "random_targets",
)
__all__ = [*_NAMES]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'densevit.testing' has no attribute {name!r}")
    return registry.public_name(name)
