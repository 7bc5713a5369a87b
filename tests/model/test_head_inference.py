"""The options of inference of each head: of a config, of `predict`, and of models without maps."""

import re

import numpy as np
import pytest
import torch

from densevit import config as configs
from densevit.config import InferenceSection
from densevit.data.loading.batch_sampler import collate
from densevit.errors import ConfigError
from densevit.model import DenseModel, inference_by_head
from tests.model.small_models import Boxes, Depth, Segmenter, Stem, batch_of, depth_of, infer, inferred, model_of


def test_predict_uses_the_config_section_and_overrides():
    model = model_of(Stem(), Depth)
    here = {"backbone": {"name": "x"}, "heads": {"depth": {"name": "y"}}, "data": {"name": "scenes"}}
    config = configs.from_mapping({**here, "trainer": {"max_steps": 1}, "inference": {"window": 24}})
    predictor = model.with_config(config)
    pixels = np.random.default_rng(0).integers(0, 256, (41, 54, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    batch = collate([{"image": image, "targets": {"size": (41, 54), "original_size": (41, 54)}}], 4)
    for given, section in (
        (None, {"window": 24}),
        ({"stride": 24}, {"window": 24, "stride": 24}),
        ({"window": None}, {}),
        ({"window": None, "flip": True}, {"flip": True}),
    ):
        found = predictor.predict([pixels, pixels[:20]], inference=given)
        assert torch.equal(found[0]["depth"], depth_of(model, batch, **section)[0])
        assert found[1]["depth"].shape == (20, 54)
    with pytest.raises(ConfigError, match=r"^predict: inference\.windw .*'window'"):
        predictor.predict([pixels], inference={"windw": 3})


def config_with(section):
    values = {"backbone": {"name": "swin"}, "heads": {"a": {"name": "setr"}}, "data": {"name": "scenes"}}
    return configs.from_mapping({**values, "trainer": {"max_steps": 1}, "inference": section}, "mine.yaml")


@pytest.mark.parametrize(
    ("section", "facts"),
    [
        ({"stride": 100}, ["inference.stride", "100", "Set inference.window"]),
        ({"window": 512, "stride": 600}, ["inference.stride: 600", "inference.window, 512"]),
        ({"window": [1, 2, 3]}, ["inference.window", "[height, width]"]),
        ({"average": "votes"}, ["inference.average", "'logits' or 'probabilities'", "'votes'"]),
        ({"flips": True}, ["inference.flips", "'flip'"]),
    ],
)
def test_invalid_section_error_names_the_key(section, facts):
    with pytest.raises(ConfigError, match="^mine.yaml: " + ".*".join(map(re.escape, facts))):
        config_with(section)


def test_a_model_without_maps_is_refused_by_its_heads():
    model = model_of(Stem(), Boxes)
    asked = {"window=64": {"window": 64}, "flip=true": {"flip": True}, r"scales=\[0.5, 1.0\]": {"scales": (0.5, 1.0)}}
    for said, section in asked.items():
        with pytest.raises(ConfigError, match=rf"^inference\.{said} .*detection \(.*:Boxes\) .*not a DenseHead"):
            model.predict([], inference=section)
    with pytest.raises(ConfigError, match=r"^heads\.detection\.inference: .*:Boxes\) .*leave it"):
        inference_by_head(model_of(Stem(), Segmenter, Boxes), InferenceSection(), {"detection": InferenceSection()})
    assert inference_by_head(model, InferenceSection()) == {}


@torch.no_grad()
def test_each_head_has_its_own_options_in_prediction_and_validation():
    from densevit.training.loop.dense_module import DenseModule

    model = model_of(Stem(), Segmenter, Boxes, Depth)
    heads = {name: {"name": name} for name in model.heads} | {"depth": {"name": "x", "inference": {"flip": True}}}
    values = {"backbone": {"name": "x"}, "heads": heads, "data": {"name": "scenes"}, "trainer": {"max_steps": 1}}
    config = configs.from_mapping({**values, "inference": {"window": 24}})
    predictor = model.with_config(config)
    sections = {"segmentation": InferenceSection(window=24), "depth": InferenceSection(flip=True)}
    assert predictor.inference == DenseModule(predictor).model.inference == sections
    batch = batch_of(model, (41, 54))
    found = inferred(model, batch, sections)
    for name, key in (("segmentation", "semantic"), ("depth", "depth")):
        alone = DenseModel(model.backbone, {name: model.heads[name]}).eval()
        assert torch.equal(found[name][0][key], infer(alone, batch, sections[name])[name][0][key])
    assert torch.equal(found["detection"][0]["boxes"], model.infer(batch)["detection"][0]["boxes"])
    others = predictor.with_inference({"average": "probabilities"}).inference
    assert others["segmentation"] == InferenceSection(window=24, average="probabilities")
    assert others["depth"] == InferenceSection(flip=True, average="probabilities")
    assert configs.from_mapping(configs.yaml_io.parse(configs.dump(config), "")) == config
    heads["depth"]["inference"] = {"windw": 3}
    with pytest.raises(ConfigError, match=r"heads\.depth\.inference\.windw .*Did you mean"):
        configs.from_mapping(values)
