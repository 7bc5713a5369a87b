"""Checks of your own backbone or head, for tests and `densevit check`. A plugin's, imported when first used."""

from typing import Any

from densevit import registry

__all__ = sorted(
    {
        "CheckFailed",
        "CheckResult",
        "backbone_checks",
        "check_backbone",
        "check_head",
        "head_checks",
        "random_targets",
    }
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'densevit.testing' has no attribute {name!r}")
    return registry.public_name(name)
