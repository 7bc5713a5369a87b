"""D-FINE with random weights in transformers' files and models, and with the authors' names."""

import copy
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import densevit
from densevit import config as configs
from densevit.errors import WeightsError
from densevit.interfaces import Class
from densevit.weights.building import build_model
from densevit.weights.key_mapping import describe, saved_options, translate, translate_back
from densevit.weights.label_sets import coco_classes, instance_classes, objects365_classes
from densevit.weights.layouts import find, recognise
from densevit.weights.pretrained import load_pretrained
from densevit_workbench.interchange.foreign_export import export
from densevit_workbench.interchange.foreign_weights import convert

pytestmark = pytest.mark.integration

SIZE = (64, 96)  # transformers' top-down path needs multiples of 32
CONSTANTS = ("num_points_scale", "decoder.up", "decoder.reg_scale")
HEAD = "heads.detection"
B0 = {
    "stem_channels": [3, 16, 16],
    "embedding_size": 16,
    "hidden_sizes": [64, 256, 512, 1024],
    "stage_in_channels": [16, 64, 256, 512],
    "stage_mid_channels": [16, 32, 64, 128],
    "stage_out_channels": [64, 256, 512, 1024],
    "stage_num_blocks": [1, 1, 2, 1],
    "stage_numb_of_layers": [3, 3, 3, 3],
    "use_learnable_affine_block": True,
}
SMALL = {
    "num_labels": 80,
    "num_queries": 17,
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 40,
    "hidden_expansion": 0.5,
    "depth_mult": 0.34,
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_ffn_dim": 48,
    "tie_word_embeddings": False,
}
TWO_LEVELS = {
    "encoder_in_channels": [512, 1024],
    "decoder_in_channels": [32, 32],
    "feat_strides": [16, 32],
    "encode_proj_layers": [1],
    "num_feature_levels": 2,
    "decoder_n_points": [6, 6],
    "num_denoising": 0,
    "d_model": 64,  # projected
}
THREE_LEVELS = {
    "encoder_in_channels": [256, 512, 1024],
    "decoder_in_channels": [32, 32, 32],
    "decoder_n_points": [3, 6, 3],
    "reg_scale": 8.0,
}
OBJECTS365 = TWO_LEVELS | {"num_labels": 366}  # a row for each of its file ids, as in dfine_s_obj365.pth
MODES = {"two levels": TWO_LEVELS, "three levels": THREE_LEVELS, "Objects365": OBJECTS365}
CLASSES = dict.fromkeys(MODES, coco_classes()) | {"Objects365": instance_classes(366)}


@torch.no_grad()
def make(mode, randomise):
    """A small model with the classes of `mode` on HGNetv2-B0; all tensors are random so that errors become visible."""
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    torch.manual_seed(5)
    levels = MODES[mode]["decoder_in_channels"]
    backbone = HGNetV2Config(**B0, out_features=[f"stage{i}" for i in range(5 - len(levels), 5)])
    config = DFineConfig(backbone_config=backbone, freeze_backbone_batch_norms=False, **SMALL | MODES[mode])
    theirs = DFineForObjectDetection(config)
    for part in ("class_embed", "bbox_embed"):  # layers of their own, as released
        layers = nn.ModuleList(copy.deepcopy(layer) for layer in getattr(theirs, part))
        setattr(theirs, part, layers)
        setattr(theirs.model.decoder, part, layers)
    kept = {name: x.clone() for name, x in theirs.state_dict().items() if name.endswith(CONSTANTS)}
    randomise(theirs)
    for name, tensor in theirs.named_parameters():
        if name.endswith(("lab.scale", "lab.bias")):
            nn.init.normal_(tensor, 1.0 if name.endswith("scale") else 0.0, 0.3)
    theirs.load_state_dict(kept, strict=False)
    return theirs.eval()


@torch.no_grad()
def run(theirs, batch):
    return theirs(batch["images"] / 255)


def same(outputs, reference):
    assert reference.logits.std(1).mean() > 0.05
    assert reference.pred_boxes.std(1).mean() > 0.01
    torch.testing.assert_close(outputs["logits"], reference.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["boxes"], reference.pred_boxes, rtol=1e-4, atol=1e-4)


AUTHORS = [  # transformers' names in memory -> the authors', as regular expressions, all applied in turn
    (r"^model\.backbone\.model\.embedder\.", "backbone.stem."),
    (r"^model\.backbone\.model\.encoder\.", "backbone."),
    (r"^(backbone\..*)\.convolution\.", r"\1.conv."),
    (r"^(backbone\..*)\.normalization\.", r"\1.bn."),
    (r"^model\.encoder_input_proj\.(\d)\.0\.", r"encoder.input_proj.\1.conv."),
    (r"^model\.encoder_input_proj\.(\d)\.1\.", r"encoder.input_proj.\1.norm."),
    (r"^model\.decoder_input_proj\.(\d)\.0\.", r"decoder.input_proj.\1.conv."),
    (r"^model\.decoder_input_proj\.(\d)\.1\.", r"decoder.input_proj.\1.norm."),
    (r"^model\.encoder\.", "encoder."),
    (r"^encoder\.aifi\.", "encoder.encoder."),
    (r"^encoder\.downsample_convs\.(\d)\.conv(\d)\.", r"encoder.downsample_convs.\1.0.cv\2."),
    (r"(fpn|pan)_blocks\.(\d)\.conv1\.", r"\1_blocks.\2.cv1."),
    (r"(fpn|pan)_blocks\.(\d)\.csp_rep1\.", r"\1_blocks.\2.cv2.0."),
    (r"(fpn|pan)_blocks\.(\d)\.conv2\.", r"\1_blocks.\2.cv2.1."),
    (r"(fpn|pan)_blocks\.(\d)\.csp_rep2\.", r"\1_blocks.\2.cv3.0."),
    (r"(fpn|pan)_blocks\.(\d)\.conv3\.", r"\1_blocks.\2.cv3.1."),
    (r"(fpn|pan)_blocks\.(\d)\.conv4\.", r"\1_blocks.\2.cv4."),
    (r"^model\.decoder\.(query_pos_head|pre_bbox_head)\.", r"decoder.\1."),
    (r"^model\.decoder\.class_embed\.", "decoder.dec_score_head."),
    (r"^model\.decoder\.bbox_embed\.", "decoder.dec_bbox_head."),
    (r"^model\.decoder\.", "decoder.decoder."),
    (r"^model\.enc_output\.0\.", "decoder.enc_output.proj."),
    (r"^model\.enc_output\.1\.", "decoder.enc_output.norm."),
    (r"^model\.", "decoder."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"^(encoder\..*)\.final_layer_norm\.", r"\1.norm2."),
    (r"^(decoder\..*)\.final_layer_norm\.", r"\1.norm3."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.mlp\.layers\.0\.", ".linear1."),
    (r"\.mlp\.layers\.1\.", ".linear2."),
    (r"\.o_proj\.", ".out_proj."),
]


def authors_state(theirs):
    """The state dict of transformers' model with the authors' names."""
    state = {}
    for name, tensor in theirs.state_dict().items():
        if name.startswith(("class_embed", "bbox_embed")):
            continue
        for pattern, replacement in AUTHORS:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor
    for layer in sorted({name.partition(".self_attn.q_proj")[0] for name in state if ".self_attn.q_proj." in name}):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"{layer}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            state[f"{layer}.self_attn.in_proj_{kind}"] = torch.cat(parts)
    constants = {name: state[f"decoder.decoder.{name}"] for name in ("up", "reg_scale")}
    return state | {f"decoder.{name}": x for name, x in constants.items()}


@pytest.mark.parity("transformers-dfine")
@pytest.mark.parametrize("where", ["file", "memory"])
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_logits_and_boxes_match_transformers(mode, where, tmp_path, randomise, padded_batch):
    theirs = make(mode, randomise)
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert "model.encoder.encoder.0.layers.0.self_attn.out_proj.weight" in state  # names of version 4, as on the hub
    if where == "memory":
        state = theirs.state_dict()
        save_file({key: x.clone() for key, x in state.items()}, tmp_path / "model.safetensors")
    assert recognise(state).name == "transformers-dfine"
    ours = convert(tmp_path).model
    assert ours.backbone.mean == (0.0, 0.0, 0.0) and ours.backbone.std == (1.0, 1.0, 1.0)
    assert ours.classes["detection"] == CLASSES[mode]
    head, three = ours.heads["detection"], mode == "three levels"
    assert (head.num_queries, head.denoising is None) == (17, not three)
    assert head.decoder.reg_scale == (8.0 if three else 4.0)
    batch = padded_batch([SIZE, SIZE])
    same(ours.eval()(batch)["detection"], run(theirs, batch))


@pytest.mark.parity("dfine")
@pytest.mark.parametrize("key", ["model", "ema"])
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_logits_and_boxes_match_with_the_authors_names(mode, key, tmp_path, randomise, padded_batch):
    """Their files have the averaged weights as `ema.module` in training, and as `model` where released."""
    theirs = make(mode, randomise)
    state = authors_state(theirs)
    assert recognise(state).name == "dfine"
    trained = {name: x + 1 for name, x in state.items()}
    file = {"model": state} if key == "model" else {"model": trained, "ema": {"module": state, "updates": 3}}
    torch.save(file, tmp_path / "dfine.pth")
    ours = convert(tmp_path / "dfine.pth", overrides=[f"{HEAD}.num_queries=17"]).model
    assert ours.classes["detection"] == CLASSES[mode]
    batch = padded_batch([SIZE, SIZE])
    same(ours.eval()(batch)["detection"], run(theirs, batch))


@pytest.mark.parametrize("names", ["none", "the Hub's", "own"])
def test_classes_of_366_rows_are_objects365s_unless_config_json_has_others(names, tmp_path, randomise):
    theirs = make("Objects365", randomise)
    labels = {"the Hub's": ["None", "Person", "Sneakers", "Chair"], "own": ["bolt", "nut", "washer", "gear"]}.get(names)
    if labels is not None:
        known = (
            [one.name for one in objects365_classes()] if names == "the Hub's" else [f"part {i}" for i in range(365)]
        )
        theirs.config.id2label = dict(enumerate([*labels, *known[3:]]))
    theirs.save_pretrained(tmp_path)
    found = convert(tmp_path).model.classes["detection"]
    assert [one.name for one in found[:4]] == (labels if names == "own" else ["None", "Person", "Sneakers", "Chair"])
    assert [one.file_id for one in found] == [*range(366)]


@pytest.mark.parametrize("key", ["model", "ema"])
def test_rows_of_own_classes_are_those_of_objects365_by_name(key, tmp_path, randomise):
    """A file with the authors' names, fine-tuned: row 1 is that of `Person`, row 365 of `Table Tennis`."""
    state = authors_state(make("Objects365", randomise))
    file = {"model": state} if key == "model" else {"model": {}, "ema": {"module": state}}
    torch.save(file, tmp_path / "dfine_s_obj365.pth")
    config = convert(tmp_path / "dfine_s_obj365.pth").config
    config = configs.with_overrides(config, [f"weights={tmp_path / 'dfine_s_obj365.pth'}"])
    own = ["person", "widget", "table_tennis"]
    classes = {"detection": tuple(Class(name, i, (0, 0, 0)) for i, name in enumerate(own, 1))}
    model = build_model(config, classes)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    load_pretrained(model, config)
    found = model.state_dict()
    rows = {f"{HEAD}.decoder.label_heads.{i}": f"decoder.dec_score_head.{i}" for i in range(2)}
    for ours, theirs in (rows | {f"{HEAD}.queries.label_head": "decoder.enc_score_head"}).items():
        for kind in ("weight", "bias"):
            name, tensor = f"{ours}.{kind}", state[f"{theirs}.{kind}"]
            assert torch.equal(found[name], torch.stack([tensor[1], before[name][1], tensor[365]])), name


@pytest.mark.parametrize("name", ["dfine", "transformers-dfine"])
@pytest.mark.parametrize("mode", MODES)
def test_exported_tensors_are_those_of_the_file(mode, name, tmp_path, randomise):
    theirs = make(mode, randomise)
    theirs.save_pretrained(tmp_path)
    state = authors_state(theirs) if name == "dfine" else load_file(tmp_path / "model.safetensors")
    layout = find(name)
    done = translate(state, layout)
    assert (done.unknown, done.errors) == ([], [])
    back, unknown = translate_back(done.tensors, layout)
    assert unknown == []
    kept = {key for key in state if not key.endswith(CONSTANTS)}
    assert kept <= set(back)
    for key in kept:
        rows = -1 if "denoising_class_embed" in key else None
        assert torch.equal(*(x[:rows] if x.ndim else x for x in (back[key], state[key]))), key


def test_heads_that_layers_share_are_stored_once(tmp_path, randomise):
    """As transformers 5 does for a model whose config has `tie_word_embeddings`."""
    theirs = make("two levels", randomise)
    state = theirs.state_dict()
    for key in state:
        if match := re.fullmatch(r"(?:model\.decoder\.)?((?:class|bbox)_embed)\.\d\.(.*)", key):
            state[key] = state[f"{match[1]}.0.{match[2]}"]
    once = {key: x for key, x in state.items() if not re.search(r"model\.decoder\.(class|bbox)_embed|_embed\.1\.", key)}
    layout = find("transformers-dfine")
    assert len(once) < len(state)
    found, expected = translate(once, layout), translate(state, layout)
    assert (found.unknown, found.errors) == ([], [])
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(x, found.tensors[key]) for key, x in expected.tensors.items())


@torch.no_grad()
def test_a_model_of_ours_exports_with_a_config_for_transformers(tmp_path, randomise, padded_batch):
    """Through files, as `densevit convert RUN OUT --to hf`, with options that differ from the defaults."""
    from transformers import DFineForObjectDetection, RTDetrImageProcessor

    head = {"num_queries": 11, "num_points": [2, 3], "min_stride": 16, "contrastive_denoising": 6, "num_bins": 16}
    head |= {"fusion_blocks": 2, "reg_scale": 6.0}
    small = {"width": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 40, "dropout": 0.0}
    encoder = {"width": 16, "feedforward": 24, "expansion": 0.5}
    model = densevit.create_model(
        {"name": "timm", "model": "hgnetv2_b0", "mean": [0, 0, 0], "std": [1, 1, 1]},
        heads={"detection": {"name": "dfine", "transformer": small, "encoder": encoder, **head}},
        classes=[f"thing {i}" for i in range(5)],
    ).model
    randomise(model)
    densevit.save(model, tmp_path / "model.safetensors")
    export(tmp_path / "model.safetensors", "transformers-dfine").write(tmp_path / "hf")
    again = DFineForObjectDetection.from_pretrained(tmp_path / "hf").eval()
    batch = padded_batch([SIZE, SIZE])
    reference = run(again, batch)
    same(model.eval()(batch)["detection"], reference)
    results = RTDetrImageProcessor().post_process_object_detection(reference, threshold=0.0, target_sizes=[SIZE, SIZE])
    for found, expected in zip(model.infer(batch)["detection"], results, strict=True):
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-3, atol=1e-5)
    back = convert(tmp_path / "hf").model.state_dict()
    assert all(torch.equal(tensor, back[key]) for key, tensor in model.state_dict().items())


def test_options_that_tensors_do_not_determine_are_read_from_the_config():
    from transformers import DFineConfig

    config = DFineConfig(
        encoder_attention_heads=4, decoder_attention_heads=4, num_queries=500, num_denoising=50, reg_scale=8.0
    ).to_dict()
    assert saved_options({}, find("transformers-dfine"), {"config": config}) == {
        f"{HEAD}.transformer.num_heads": 4, f"{HEAD}.num_queries": 500, f"{HEAD}.contrastive_denoising": 50,
        f"{HEAD}.reg_scale": 8.0, f"{HEAD}.num_points": (4, 4, 4),
    }  # fmt: skip


def test_a_model_with_the_usual_points_exports_without_naming_them(tmp_path):
    small = {"width": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 16, "dropout": 0.0}
    encoder = {"width": 16, "feedforward": 16, "expansion": 0.5}
    model = densevit.create_model(
        {"name": "timm", "model": "hgnetv2_b0"},
        heads={"detection": {"name": "dfine", "transformer": small, "encoder": encoder}},
        classes=["thing"],
    ).model
    densevit.save(model, tmp_path / "model.safetensors")
    for name, layout in (("hf", "transformers-dfine"), ("dfine", "dfine")):
        assert export(tmp_path / "model.safetensors", name).layout.name == layout


def test_an_hgnetv2_that_timm_does_not_have_is_named(randomise):
    state = {key: x for key, x in authors_state(make("two levels", randomise)).items() if ".lab." not in key}
    with pytest.raises(WeightsError, match="a stem of 16 and a first stage of 64 channels, without learnable affine"):
        describe(state, find("dfine"))
