"""What `densevit doctor` found."""

from dataclasses import dataclass, field

from PIL import Image

from densevit.data.datasets.examination import Finding
from densevit.doctor.survey import Survey
from densevit.doctor.training_cost import TrainingCost


@dataclass
class Diagnosis:
    """What `densevit doctor` found.

    name: of what was examined. findings: errors first. splits: the numbers of each split that could be read. samples:
    augmented training images with their targets, each with a caption. cost: of the config's training; None without a
    config.
    """

    name: str
    findings: list[Finding] = field(default_factory=list)
    splits: dict[str, Survey] = field(default_factory=dict)
    samples: list[tuple[str, Image.Image]] = field(default_factory=list)
    cost: TrainingCost | None = None

    @property
    def errors(self) -> list[Finding]:
        """The findings that stop a training or make its result wrong."""
        return [one for one in self.findings if one.severity == "error"]

    def count(self, severity: str) -> int:
        """The number of findings of a severity."""
        return sum(one.severity == severity for one in self.findings)
