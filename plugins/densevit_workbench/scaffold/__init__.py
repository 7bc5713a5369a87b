"""Templates of small plugin distributions that install, pass their test and train without changes."""

from densevit_workbench.scaffold.distribution_files import KINDS, files, write
from densevit_workbench.scaffold.names import check_name, class_name

__all__ = ["KINDS", "check_name", "class_name", "files", "write"]
