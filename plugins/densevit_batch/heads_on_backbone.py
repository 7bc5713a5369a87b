"""Files of heads on the backbone that they were trained on."""

from pathlib import Path
from typing import Any

from densevit.model import InferenceModel
from densevit.weights.checkpoint_io import is_densevit
from densevit.weights.sources import Source


class HeadsOnBackbone(Source):
    """Files of `densevit join --heads-only`, loaded with their backbone."""

    options = ("backbone",)

    def recognises(self, source: str | Path) -> bool:
        return is_densevit(source)

    def load(self, source: str | Path, trust: bool = False, **options: Any) -> tuple[InferenceModel, bool]:
        from densevit_batch.model_joining import on_backbone, read_part

        return on_backbone(read_part(source, trust=trust), options["backbone"], trust), False
