"""Blocks of the four stages, by depth (He et al. 2016, table 1)."""

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BOTTLENECKS_FROM = 50  # the least depth with bottlenecks in place of basic blocks
