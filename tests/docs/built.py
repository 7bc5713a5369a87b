"""Models of configs on pages, built on the meta device: as large as they are, without values and without data."""

import json
from typing import Any

from densevit.config import Config

_BUILT = set[str]()


def build(config: Config) -> None:
    """Builds the model of a config with valid options, once, and checks it with a data set of three classes. Raises an
    error of densevit where its parts do not fit."""
    from densevit import Class, registry  # late: torch is slow to import
    from densevit.model import build_from_sections
    from densevit.model.meta_device import built_on_meta
    from tests.heads.cases import checked

    values: dict[str, Any] = config.model_dump()
    key = json.dumps({name: values[name] for name in ("backbone", "heads")}, sort_keys=True, default=str)
    classes = tuple(Class(name, i, (0, 0, 0)) for i, name in enumerate(("a", "b", "c"), 1))
    if key not in _BUILT:
        tasks = {name: registry.load("heads", head.name).task for name, head in config.heads.items()}
        of_heads = {name: () if task == "depth" else classes for name, task in tasks.items()}
        for head in built_on_meta(lambda: build_from_sections(config, of_heads, pretrained=False)).heads.values():
            checked(head)
    _BUILT.add(key)
