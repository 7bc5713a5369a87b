"""Published recipes: files, and further models of a file by the overrides in its first lines."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from densevit import config as configs
from tools.conventions.recipes import variants


@dataclass(frozen=True)
class Recipe:
    """A file with overrides, as in `backbone.variant=b2 heads.segmentation.width=768`."""

    path: Path
    overrides: str = ""

    def __str__(self) -> str:
        return f"{self.path.parent.name}/{self.name}"

    @property
    def name(self) -> str:
        """Without the folder."""
        return f"{self.path.stem} {self.overrides}".rstrip()

    def load(self, *overrides: str) -> configs.Config:
        """The config. overrides: further ones."""
        return configs.load(self.path, [*self.overrides.split(), *overrides])


def with_variants(paths: Iterable[Path]) -> list[Recipe]:
    """The recipes of files, sorted by file, with the variants that their first lines name."""
    return [Recipe(path, overrides) for path in sorted(paths) for overrides in ("", *variants(path.read_text()))]
