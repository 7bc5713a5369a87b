"""Exported files as models."""

from pathlib import Path
from typing import Any

from densevit.model import InferenceModel
from densevit.weights.sources import Source

SUFFIXES = (".onnx", ".pt2", ".tflite", ".pte")


class ExportedFiles(Source):
    """Files of `densevit.export`, which run on the CPU."""

    options = ("runtime",)

    def recognises(self, source: str | Path) -> bool:
        return Path(source).suffix.lower() in SUFFIXES

    def load(self, source: str | Path, trust: bool = False, **options: Any) -> tuple[InferenceModel, bool]:
        from densevit_export.engine import build
        from densevit_export.runtimes import open_file

        return build(open_file(source, trust=trust, **options), trust), False
