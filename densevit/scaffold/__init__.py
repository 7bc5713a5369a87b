"""Small distributions to begin one's own plugin from: they install, pass their test and train as they are written."""

from densevit.scaffold.distribution import KINDS, files, write
from densevit.scaffold.names import check_name, class_name

__all__ = ["KINDS", "check_name", "class_name", "files", "write"]
