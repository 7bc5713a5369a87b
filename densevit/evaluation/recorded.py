"""The metrics of a model and of its file, in the file's header."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class RecordedEvaluation(NamedTuple):
    """Metrics HEAD/METRIC of a model and of its exported file. data: the data of the evaluation; None: unknown."""

    model: Mapping[str, float]
    file: Mapping[str, float]
    data: str | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RecordedEvaluation":
        """Reads the entry `evaluation` of a header."""
        model, file = ({k: math.nan if v is None else v for k, v in values[key].items()} for key in ("model", "file"))
        return cls(model, file, values["data"])

    def as_json(self) -> dict[str, Any]:
        """The entry `evaluation` of a header, with null for metrics that are not finite."""
        model, file = ({k: float(v) if math.isfinite(v) else None for k, v in metrics.items()} for metrics in self[:2])
        return {"model": model, "file": file, "data": self.data}
