"""The base class of methods that learn without labels."""

from typing import Any

from densevit.interfaces import Method


class Unlabelled(Method):
    """A method without labels; its runs warn of a collapse."""

    def callbacks(self) -> list[Any]:
        from densevit_methods.collapse import Collapse  # imported late, because it imports Lightning

        return [Collapse()]
