"""The result of `densevit doctor`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from PIL import Image

from densevit.errors import counted
from densevit.paths import user_path
from densevit.reporting.html_page import Folded, Heading, PageSection, fragment, write_page
from densevit_workbench.doctor import page
from densevit_workbench.doctor.findings import Finding, Severity
from densevit_workbench.doctor.split_statistics import SplitStatistics
from densevit_workbench.doctor.training_cost import TrainingCost
from densevit_workbench.interchange.inventory import Inventory


@dataclass(repr=False)
class Diagnosis:
    """The result of `densevit doctor`.

    name: the examined argument. findings: errors first. splits: statistics of each readable split. inventories: counts
    of found, used and unused files and objects, by split. readings: images with ambiguous boxes, both readings side by
    side. samples: augmented training images with targets and captions. cost: the training cost; None without a config.

    Example:
        >>> diagnosis = densevit.doctor("~/my_folder")
        >>> sorted(diagnosis.splits)
        ['train', 'val']
    """

    name: str
    findings: list[Finding] = field(default_factory=list)
    splits: dict[str, SplitStatistics] = field(default_factory=dict)
    inventories: dict[str, list[Inventory]] = field(default_factory=dict)
    readings: list[tuple[str, Image.Image]] = field(default_factory=list)
    samples: list[tuple[str, Image.Image]] = field(default_factory=list)
    cost: TrainingCost | None = None

    @property
    def errors(self) -> list[Finding]:
        """Findings that would stop a run or make its result wrong."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def summary(self) -> str:
        """One line: "shapes: 1 error, 2 warnings, 0 notes"."""
        return f"{self.name}: " + ", ".join(counted(self.count(name), name) for name in get_args(Severity))

    def __repr__(self) -> str:
        """The summary and the findings, without the numbers of the splits."""
        return "\n".join([self.summary, *map(str, self.findings)])

    def _repr_html_(self) -> str:
        """The findings, and the rest of the page folded, for Jupyter."""
        first, *rest = self._sections()
        folded = [Folded(section.title, section.parts) for section in rest]
        return fragment([Heading(self.summary), *first.parts, *folded])

    def write_page(self, path: str | Path) -> None:
        """Writes a self-contained HTML page."""
        write_page(user_path(path), f"Doctor: {self.name}", self.summary, self._sections())

    def _sections(self) -> list[PageSection]:
        return page.sections(self.findings, self.splits, self.inventories, self.readings, self.samples, self.cost)

    def count(self, severity: str) -> int:
        """The number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)
