"""densevit/config/model_schema.py: windows, frozen backbones, and keys that do not fit each other."""

from typing import Any

import pytest
from pydantic import ValidationError

from densevit.config import InferenceSection
from densevit.config.model_schema import BackboneSection


def test_windows_overlap_by_a_third() -> None:
    assert InferenceSection().single_pass and InferenceSection().strides is None
    section = InferenceSection(window=(90, 64))
    assert (section.window_sides, section.strides, section.single_pass) == ((90, 64), (60, 43), False)
    assert InferenceSection(window=64, stride=32).strides == (32, 32)


@pytest.mark.parametrize(
    ("section", "keys", "facts"),
    [
        (InferenceSection, {"stride": 8}, "needs a window"),
        (InferenceSection, {"window": 8, "stride": 9}, "more than inference.window, 8"),
        (BackboneSection, {"name": "vit", "cache": "fp16"}, "fp16 needs backbone.freeze=true"),
        (BackboneSection, {"name": "vit", "freeze": True, "lora": {"rank": 2}}, "backbone.freeze is set"),
    ],
)
def test_keys_that_do_not_fit_are_errors(section: Any, keys: dict[str, Any], facts: str) -> None:
    with pytest.raises(ValidationError, match=facts):
        section.model_validate(keys)
