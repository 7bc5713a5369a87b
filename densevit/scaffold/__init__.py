"""Templates of small plugin distributions, which install, pass their test and train as written."""

from densevit.scaffold.distribution import KINDS, files, write
from densevit.scaffold.names import check_name, class_name

__all__ = ["KINDS", "check_name", "class_name", "files", "write"]
