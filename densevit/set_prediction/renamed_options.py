"""Options of earlier versions, as they are now: the part that the heads have in common.

A head's own table stands beside it, and is read by `Head.renamed_options`.
"""

from collections.abc import Mapping
from typing import Any

NESTED = {  # before: now
    **{f"{name}_cost": f"costs.{name}" for name in ("label", "l1", "giou")},
    **{f"{name}_weight": f"loss_weights.{name}" for name in ("label", "l1", "giou")},
    **{
        name: f"transformer.{name}"
        for name in ("width", "num_heads", "encoder_layers", "decoder_layers", "feedforward", "dropout")
    },
    "ffn_width": "transformer.feedforward",
    "memory_stride": "stride",
}


def nested(options: Mapping[str, Any], table: Mapping[str, str] = NESTED) -> dict[str, Any]:
    """The options with the keys of the table moved to their new names, "section.key" into a section."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in options.items()}
    for before, now in table.items():
        if before in result:
            value, (section, _, key) = result.pop(before), now.partition(".")
            if key:
                result.setdefault(section, {})[key] = value
            else:
                result[section] = value
    return result


def without(options: Mapping[str, Any], removed: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options without removed ones. removed: with the value that leaves them out; None if another is given."""
    if any(options.get(key, neutral) != neutral for key, neutral in removed.items()):
        return None
    return {key: value for key, value in options.items() if key not in removed}
