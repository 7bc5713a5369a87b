import pytest

from densevit.errors import ConfigError
from densevit_workbench.benchmarking.cases import (
    PROTOCOL,
    cases_of_protocol,
)


def test_the_protocol_gives_all_backbones_the_same_training_and_heads():
    cases = cases_of_protocol(
        PROTOCOL, ["swin", "vit", "timm"], ["box_query_detr", "setr"], ["data.train_length=8", "heads.setr.width=64"]
    )
    assert [case.name for case in cases[:4]] == ["swin-box_query_detr", "swin-setr", "vit-box_query_detr", "vit-setr"]
    assert len({case.fingerprint for case in cases}) == 6
    for case in cases:
        config = case.config()  # the plugins accept their options
        assert [(name, head.name) for name, head in config.heads.items()] == [(case.head, case.head)]
        assert config.backbone.name == case.backbone
        others = [other.config() for other in cases if other.head == case.head]
        for section in ("data", "optim", "trainer", "heads", "seed"):
            assert all(getattr(other, section) == getattr(config, section) for other in others)
    assert cases[1].config().heads["setr"].options["width"] == 64


def test_backbones_are_shipped_names_files_and_plugins(tmp_path):
    (tmp_path / "mine.yaml").write_text("{name: swin, variant: tiny}")
    given = ["resnet", str(tmp_path / "mine.yaml"), "densevit_backbones.vit:ViT"]
    cases = cases_of_protocol(PROTOCOL, given, ["one_stage"], [])
    assert [case.name for case in cases] == ["resnet-one_stage", "mine-one_stage", "ViT-one_stage"]
    assert [case.config().backbone.options for case in cases] == [{"depth": 18}, {"variant": "tiny"}, {}]


@pytest.mark.parametrize(
    ("backbones", "heads", "overrides", "message"),
    [
        (["swan"], ["box_query_detr"], [], "there is no backbone 'swan'. Did you mean 'swin'"),
        (["swin"], ["detre"], [], "there is no head 'detre'. Did you mean 'detr'"),
        (["swin"], ["box_query_detr"], ["backbone.variant=tiny"], "options of a backbone must be in a separate file"),
        (["swin", "swin"], ["box_query_detr"], [], "swin-box_query_detr is given twice"),
    ],
)
def test_wrong_names_are_errors(backbones, heads, overrides, message):
    with pytest.raises(ConfigError, match=message):
        cases_of_protocol(PROTOCOL, backbones, heads, overrides)
