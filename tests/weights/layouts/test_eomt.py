"""EoMT: transformers' models with random weights in their files, and with the authors' names."""

import re

import pytest
import torch
from safetensors.torch import load_file

import densevit
from densevit.errors import WeightsError
from densevit.weights.key_mapping import canonical, translate, translate_back
from densevit.weights.layouts import find, recognise

pytestmark = pytest.mark.integration

# As in the published models: tue-mps/{coco_panoptic,coco_instance,ade20k_semantic}_eomt_... and those with _dinov3.
TASKS = {
    "panoptic": (133, 200, "panoptic", "eomt"),
    "instance": (80, 200, "detection", "eomt_instance"),
    "semantic": (150, 100, "segmentation", "eomt_semantic"),
}
SIDE = 64
SMALL = {"hidden_size": 128, "num_hidden_layers": 5, "num_attention_heads": 4, "image_size": SIDE, "num_blocks": 2}
AUTHORS = [  # of a file -> of the authors' pytorch_model.bin, as in transformers' conversion script
    (r"embeddings\.cls_token", "network.encoder.backbone.cls_token"),
    (r"embeddings\.register_tokens", "network.encoder.backbone.reg_token"),
    (r"embeddings\.patch_embeddings\.projection", "network.encoder.backbone.patch_embed.proj"),
    (r"layers\.(\d)\.attention\.out_proj", r"network.encoder.backbone.blocks.\1.attn.proj"),
    (r"layers\.(\d)\.layer_scale(\d)\.lambda1", r"network.encoder.backbone.blocks.\1.ls\2.gamma"),
    (r"layers\.(\d)\.", r"network.encoder.backbone.blocks.\1."),
    (r"layernorm\.", "network.encoder.backbone.norm."),
    (r"query\.", "network.q."),
    (r"class_predictor\.", "network.class_head."),
    (r"upscale_block\.block\.(\d)\.layernorm2d", r"network.upscale.\1.norm"),
    (r"upscale_block\.block\.", "network.upscale."),
    (r"mask_head\.fc1", "network.mask_head.0"),
    (r"mask_head\.fc2", "network.mask_head.2"),
    (r"mask_head\.fc3", "network.mask_head.4"),
    (r"attn_mask_probs", "network.attn_mask_probs"),
]


@torch.no_grad()
def make(version, task):
    import transformers

    if not hasattr(transformers, "EomtDinov3Config"):
        pytest.skip("transformers lacks EoMT")
    torch.manual_seed(3)
    rows, queries, _, _ = TASKS[task]
    options = SMALL | {"num_labels": rows, "num_queries": queries}
    if version == 2:
        theirs = transformers.EomtForUniversalSegmentation(transformers.EomtConfig(**options))
    else:
        config = transformers.EomtDinov3Config(intermediate_size=512, layer_norm_eps=1e-5, **options)
        theirs = transformers.EomtDinov3ForUniversalSegmentation(config)
    for name, tensor in theirs.named_parameters():
        if tensor.ndim == 1:
            tensor.normal_(0.0 if name.endswith("bias") else 0.6, 0.3)
        else:
            tensor.normal_(0, 1.0 if "token" in name or "position" in name else tensor[0].numel() ** -0.5)
    theirs.attn_mask_probs.zero_()
    return theirs.eval()


@torch.no_grad()
def assert_same(model, theirs):
    images = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    padding = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    [outputs] = model.eval()({"images": images, "padding_mask": padding, "targets": [{}] * 2}).values()
    expected = theirs(model.normalise(images, padding))
    torch.testing.assert_close(outputs["logits"], expected.class_queries_logits, rtol=1e-4, atol=1e-4)
    scale = float(expected.masks_queries_logits.abs().max())
    torch.testing.assert_close(outputs["masks"], expected.masks_queries_logits, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parity("transformers-eomt", "transformers-eomt-instance", "transformers-eomt-semantic")
@pytest.mark.parity("transformers-eomt-dinov3", "transformers-eomt-dinov3-instance")
@pytest.mark.parity("transformers-eomt-dinov3-semantic")
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("version", [2, 3])
def test_a_file_of_transformers_loads_and_computes_the_same(version, task, tmp_path):
    theirs = make(version, task)
    theirs.save_pretrained(tmp_path)
    predictor = densevit.load(str(tmp_path))
    rows, queries, key, name = TASKS[task]
    assert predictor.model.plugin_name(key) == name and len(predictor.model.classes[key]) == rows
    head, backbone = predictor.model.heads[key], predictor.model.backbone
    assert (head.num_queries, head.last_blocks, head.mask_stride) == (queries, 2, 4)
    assert backbone.input_size == (SIDE, SIDE)
    assert backbone.norm.eps == (1e-6 if version == 2 else 1e-5)
    assert_same(predictor.model, theirs)
    state = load_file(tmp_path / "model.safetensors")
    layout = find("transformers-eomt" if version == 2 else "transformers-eomt-dinov3")
    layout = next(one for one in (layout, *layout.variants) if one.name == layout.name + suffix(task))
    back, unknown = translate_back(predictor.model.state_dict(), layout)
    assert unknown == [] and all(torch.equal(back[key], state[key]) for key in back)
    assert state.keys() - back.keys() == {"attn_mask_probs", "criterion.empty_weight"}


def suffix(task):
    return "" if task == "panoptic" else f"-{task}"


def authors_state(theirs):
    state, result, thirds = theirs.state_dict(), {}, {}
    for name, tensor in state.items():
        for pattern, replacement in AUTHORS:
            if re.match(pattern, name):
                name = re.sub(f"^{pattern}", replacement, name)
                break
        match = re.fullmatch(r"(.*)\.attention\.([qkv])_proj\.(\w+)", name)
        if match:
            thirds.setdefault(f"{match[1]}.attn.qkv.{match[3]}", {})[match[2]] = tensor
        elif name == "embeddings.position_embeddings.weight":
            result["network.encoder.backbone.pos_embed"] = tensor[None]
        else:
            result[name] = tensor
    joined = {name: torch.cat([parts[key] for key in "qkv"]) for name, parts in thirds.items()}
    pixels = {f"network.encoder.pixel_{name}": torch.ones(1, 3, 1, 1) for name in ("mean", "std")}
    return {**result, **joined, **pixels}


@pytest.mark.parity("eomt", "eomt-instance", "eomt-semantic")
@pytest.mark.parametrize("task", TASKS)
def test_the_authors_file_loads_and_computes_the_same(task, tmp_path):
    theirs = make(2, task)
    state = authors_state(theirs)
    assert recognise(state).name == "eomt" + suffix(task)
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = densevit.load(str(tmp_path / "pytorch_model.bin")).model
    assert model.heads[TASKS[task][2]].last_blocks == 2  # from the state of annealing
    assert_same(model, theirs)


def test_differences_from_dinov3_are_refused(tmp_path):
    keys = ("network.q.weight", "network.upscale.0.conv1.weight", "network.encoder.backbone.patch_embed.cls_token",
            "network.encoder.backbone.blocks.0.attention.q_proj.weight")  # fmt: skip
    torch.save({key: torch.zeros(2) for key in keys}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"differences from DINOv3's weights, not weights\. Fix:"):
        densevit.load(str(tmp_path / "pytorch_model.bin"))


def test_every_tensor_is_used_or_listed():
    state = make(3, "panoptic").state_dict()
    layout = recognise(state)
    done = translate(canonical(state, layout), layout)
    assert (layout.name, done.unknown, done.errors) == ("transformers-eomt-dinov3", [], [])
    assert done.left_out.keys() == {"attn_mask_probs", "criterion.empty_weight", "embeddings.mask_token"} & state.keys()
