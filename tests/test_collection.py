"""Collection stays quick: packages that take seconds to import wait for the test that needs them."""

from collections.abc import Sequence


def test_files_import_no_slow_package_while_they_are_collected(
    collected_at_a_cost: Sequence[str],
) -> None:
    """Fix: import the package in the test, in its fixture, or in the function of densevit that uses it."""
    assert not collected_at_a_cost
