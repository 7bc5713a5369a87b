"""transformers' RT-DETR and RT-DETRv2 with random weights, in files and in memory: ours predicts the same boxes."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import densevit
from densevit.weights.key_mapping import describe, saved_options, translate, translate_back
from densevit.weights.label_sets import coco_classes
from densevit.weights.layouts import find, recognise
from densevit_workbench.interchange.foreign_export import export
from densevit_workbench.interchange.foreign_weights import convert

pytestmark = pytest.mark.integration

SIZE = (64, 96)  # transformers' top-down path needs multiples of 32
SMALL = {
    "num_labels": 80,
    "num_queries": 17,
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 40,
    "hidden_expansion": 0.5,
    "decoder_in_channels": [32, 32, 32],
    "d_model": 64,
    "decoder_layers": 2,
    "decoder_ffn_dim": 48,
}
MODES = {
    "basic": (1, {}),
    "bottlenecks": (1, {"layer": "bottleneck", "hidden_expansion": 1.0}),
    "frozen": (1, {"layer": "bottleneck", "freeze_backbone_batch_norms": True}),
    "v2": (2, {}),
    "v2 discrete": (2, {"decoder_method": "discrete", "decoder_n_points": 3}),
    "no denoising": (1, {"num_denoising": 0}),
}


@torch.no_grad()
def make(mode, randomise):
    """A small model with COCO's 80 classes; all tensors are random so that errors become visible."""
    from transformers import (
        RTDetrConfig,
        RTDetrForObjectDetection,
        RTDetrResNetConfig,
        RTDetrV2Config,
        RTDetrV2ForObjectDetection,
    )

    torch.manual_seed(5)
    version, options = MODES[mode]
    options = dict(options)
    basic = options.pop("layer", "basic") == "basic"
    sizes = [64, 128, 256, 512] if basic else [256, 512, 1024, 2048]
    backbone = RTDetrResNetConfig(
        hidden_sizes=sizes, depths=[2, 2, 2, 2] if basic else [3, 4, 6, 3],
        layer_type="basic" if basic else "bottleneck", out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config, model = (
        (RTDetrConfig, RTDetrForObjectDetection) if version == 1 else (RTDetrV2Config, RTDetrV2ForObjectDetection)
    )
    common = {"freeze_backbone_batch_norms": False, "encoder_in_channels": sizes[1:], "backbone_config": backbone}
    theirs = model(config(**common | SMALL | options))
    scales = {name: x.clone() for name, x in theirs.named_buffers() if name.endswith("n_points_scale")}
    randomise(theirs)
    for name, buffer in theirs.named_buffers():
        if name in scales:
            buffer.copy_(scales[name])
        if "backbone" in name and name.endswith(("weight", "bias")):  # of frozen norms
            buffer.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)
    return theirs.eval(), f"transformers-rtdetr{'' if version == 1 else 'v2'}"


@torch.no_grad()
def run(theirs, batch):
    return theirs(batch["images"] / 255)


def same(outputs, reference):
    assert reference.logits.std(1).mean() > 0.05
    assert reference.pred_boxes.std(1).mean() > 0.01
    torch.testing.assert_close(outputs["logits"], reference.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["boxes"], reference.pred_boxes, rtol=1e-4, atol=1e-4)


@pytest.mark.parity("transformers-rtdetr", "transformers-rtdetrv2")
@pytest.mark.parametrize("where", ["file", "memory"])
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_logits_and_boxes_match_transformers(mode, where, tmp_path, randomise, padded_batch):
    theirs, name = make(mode, randomise)
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert "model.encoder.encoder.0.layers.0.self_attn.out_proj.weight" in state  # names of version 4, as on the hub
    if where == "memory":
        state = theirs.state_dict()
        save_file({key: x.clone() for key, x in state.items()}, tmp_path / "model.safetensors")
    assert recognise(state).name == name
    ours = convert(tmp_path).model
    assert ours.backbone.mean == (0.0, 0.0, 0.0) and ours.backbone.std == (1.0, 1.0, 1.0)
    assert ours.classes["detection"] == coco_classes()
    head = ours.heads["detection"]
    assert (head.num_queries, head.denoising is None) == (17, mode == "no denoising")
    assert head.decoder[0].cross_attention.sampling == ("discrete" if "discrete" in mode else "grid_sample")
    batch = padded_batch([SIZE, SIZE])
    same(ours.eval()(batch)["detection"], run(theirs, batch))


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_exported_tensors_load_in_transformers(mode, tmp_path, randomise, padded_batch):
    theirs, name = make(mode, randomise)
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    layout = find(name)
    back, unknown = translate_back(translate(state, layout).tensors, layout)
    assert unknown == []
    kept = {key for key in state if not key.endswith("n_points_scale")}
    assert kept <= set(back), "class and box layers are stored twice"
    for key in kept - {"model.denoising_class_embed.weight"}:
        assert torch.equal(back[key], state[key]), key


@pytest.mark.parametrize("sampling", ["grid_sample", "discrete"])
@torch.no_grad()
def test_a_model_of_ours_exports_with_a_config_for_transformers(sampling, tmp_path, randomise, padded_batch):
    """Through files, as `densevit convert RUN OUT --to hf`, with options that differ from the defaults."""
    from transformers import RTDetrImageProcessor, RTDetrV2ForObjectDetection

    head = {"num_queries": 11, "num_points": 2, "sampling": sampling, "contrastive_denoising": 6}
    small = {"width": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 40, "dropout": 0.0}
    encoder = {"width": 16, "feedforward": 24, "expansion": 0.5}
    model = densevit.create_model(
        {"name": "resnet", "depth": 18, "variant": "vd", "mean": [0, 0, 0], "std": [1, 1, 1]},
        heads={"detection": {"name": "rtdetr", "transformer": small, "encoder": encoder, **head}},
        classes=[f"thing {i}" for i in range(5)],
    ).model
    randomise(model)
    densevit.save(model, tmp_path / "model.safetensors")
    exported = export(tmp_path / "model.safetensors", "transformers-rtdetrv2")
    exported.write(tmp_path / "hf")
    again = RTDetrV2ForObjectDetection.from_pretrained(tmp_path / "hf").eval()
    batch = padded_batch([SIZE, SIZE])
    reference = run(again, batch)
    same(model.eval()(batch)["detection"], reference)
    results = RTDetrImageProcessor().post_process_object_detection(reference, threshold=0.0, target_sizes=[SIZE, SIZE])
    for found, expected in zip(model.infer(batch)["detection"], results, strict=True):
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-3, atol=1e-5)
    back = convert(tmp_path / "hf").model.state_dict()
    assert all(torch.equal(tensor, back[key]) for key, tensor in model.state_dict().items())


def test_options_that_tensors_do_not_determine_are_read_from_the_config():
    from transformers import RTDetrV2Config

    config = RTDetrV2Config(
        encoder_attention_heads=4, decoder_attention_heads=4, decoder_n_points=2, num_queries=500, num_denoising=50,
        decoder_method="discrete",
    ).to_dict()  # fmt: skip
    head = "heads.detection"
    assert saved_options({}, find("transformers-rtdetrv2"), {"config": config}) == {
        f"{head}.transformer.num_heads": 4, f"{head}.num_points": 2, f"{head}.num_queries": 500,
        f"{head}.contrastive_denoising": 50, f"{head}.sampling": "discrete",
    }  # fmt: skip


def test_deeper_backbones_are_frozen_as_in_the_authors_configs(randomise):
    for mode, expected in (("basic", {}), ("bottlenecks", {"norm": "frozen", "frozen_stages": 1})):
        theirs, name = make(mode, randomise)
        backbone = describe(theirs.state_dict(), find(name))["backbone"]
        assert {key: backbone[key] for key in ("norm", "frozen_stages") if key in backbone} == expected
