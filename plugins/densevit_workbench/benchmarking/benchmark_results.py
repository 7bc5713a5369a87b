"""The results of a benchmark, and the file that stores them for an interrupted benchmark to continue."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densevit.atomic_io import replaced_file
from densevit.errors import DataError, check_format, one_line
from densevit.evaluation.metrics_file import finite

FORMAT = 6  # `format_version` of a file


@dataclass
class CaseResult:
    """The results of one model.

    fingerprint: a hash of the config or file, and of the settings of its training. setting: data, image and batch size,
    see `setting_of`. cost: parameters and multiply-adds. timings: `Timing` fields by mode, device, batch and size.
    training: images, learning rate, seconds and metrics, averaged over seeds; `runs` lists each seed. errors: messages
    by failed step.
    """

    fingerprint: str
    backbone: str = ""
    head: str = ""
    setting: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, dict[str, Any]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the trained model, averaged over seeds; empty if it was not trained."""
        return {name: value for name, value in self.training.get("metrics", {}).items() if value is not None}


@dataclass
class Results:
    """The results of models in a file. `case` stores them by name and fingerprint."""

    path: Path
    cases: dict[str, CaseResult] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> "Results":
        """Reads the file if it exists. Raises DataError for a file of another format."""
        if not path.is_file():
            return cls(path)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            check_format(stored.get("format_version"), FORMAT, path, DataError)
            cases = {name: CaseResult(**case) for name, case in stored["cases"].items()}
        except DataError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: expected the results of a benchmark; found: {one_line(error)}. Fix: name another folder."
            ) from error
        return cls(path, cases, stored.get("facts", {}))

    def case(self, name: str, fingerprint: str, backbone: str, head: str) -> CaseResult:
        """The stored results of a model with this fingerprint; empty if there are none."""
        return self.cases.setdefault(f"{name}-{fingerprint}", CaseResult(fingerprint, backbone, head))

    def write(self) -> None:
        """Replaces the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(self.path) as temporary:
            text = json.dumps(finite(self.as_dict()), indent=1, allow_nan=False) + "\n"
            temporary.write_text(text, encoding="utf-8")

    def as_dict(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "format_version": FORMAT,
            "facts": self.facts,
            "cases": {name: vars(case) for name, case in self.cases.items()},
        }
