"""SegFormer: transformers' models with random weights, in its files, in memory and with the authors' names."""

import re

import pytest
import torch
from safetensors.torch import load_file

import densevit
from densevit.weights.key_mapping import canonical, translate, translate_back
from densevit.weights.layouts import find, recognise
from densevit_workbench.interchange.foreign_export import export

AUTHORS = [  # transformers' names -> the authors', as in transformers' conversion script
    (r"encoder\.patch_embeddings\.(\d)\.proj", lambda m: f"patch_embed{int(m[1]) + 1}.proj"),
    (r"encoder\.patch_embeddings\.(\d)\.layer_norm", lambda m: f"patch_embed{int(m[1]) + 1}.norm"),
    (r"encoder\.block\.(\d)\.", lambda m: f"block{int(m[1]) + 1}."),
    (r"encoder\.layer_norm\.(\d)\.", lambda m: f"norm{int(m[1]) + 1}."),
    (r"layer_norm_(\d)", r"norm\1"),
    (r"attention\.self\.query", "attn.q"),
    (r"attention\.output\.dense", "attn.proj"),
    (r"attention\.self\.sr", "attn.sr"),
    (r"attention\.self\.layer_norm", "attn.norm"),
    (r"mlp\.dense(\d)", r"mlp.fc\1"),
    (r"^segformer\.", "backbone."),
    (r"linear_c\.(\d)", lambda m: f"linear_c{int(m[1]) + 1}"),
    (r"linear_fuse", "linear_fuse.conv"),
    (r"decode_head\.batch_norm", "decode_head.linear_fuse.bn"),
    (r"decode_head\.classifier", "decode_head.linear_pred"),
]


def make(num_labels=5, kind="SegformerForSemanticSegmentation", **options):
    import transformers

    torch.manual_seed(5)
    config = transformers.SegformerConfig(num_labels=num_labels, **options)
    theirs = getattr(transformers, kind)(config).eval()
    for name, tensor in theirs.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
        elif tensor.is_floating_point():
            tensor.normal_(0, tensor[0].numel() ** -0.5)
    return theirs


def authors_state(state):
    """The tensors of transformers' file with the authors' names."""
    result = {}
    for key, tensor in state.items():
        if "attention.self.value" in key:
            continue
        if "attention.self.key" in key:
            tensor = torch.cat([tensor, state[key.replace(".key.", ".value.")]])
            key = key.replace("attention.self.key", "attn.kv")
        for pattern, replacement in AUTHORS:
            key = re.sub(pattern, replacement, key)
        result[key] = tensor
    return result


@torch.no_grad()
def run(theirs, batch):
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = ((batch["images"] / 255 - mean) / std).masked_fill(batch["padding_mask"][:, None], 0.0)
    return theirs(pixels).logits


def file_of(theirs, folder):
    theirs.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parity("segformer", "transformers-segformer")
@pytest.mark.parametrize("where", ["file", "memory", "authors"])
@torch.no_grad()
def test_logits_match_transformers(where, tmp_path, whole, padded_batch):
    theirs = make()
    state = theirs.state_dict() if where == "memory" else file_of(theirs, tmp_path)
    if where == "authors":
        state = authors_state(state)
        state["decode_head.conv_seg.weight"], state["decode_head.conv_seg.bias"] = (
            torch.zeros(5, 8, 1, 1),
            torch.zeros(5),
        )
    layout = recognise(state)
    assert layout.name == ("segformer" if where == "authors" else "transformers-segformer")
    assert "non-commercial" in layout.publishing.licence
    state = canonical(state, layout)
    ours = whole(state, layout, without_effect=r"decode_head\.conv_seg")
    for sizes in ([(64, 96), (64, 96)], [(61, 96), (64, 83)]):
        batch = padded_batch(sizes)
        expected = run(theirs, batch)
        assert expected.std() > 0.1
        found = ours(batch)["segmentation"]["logits"]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 if where != "authors" else 1e-3)
    back, unknown = translate_back(translate(state, layout).tensors, layout)
    assert unknown == []
    kept = {key for key in state if "conv_seg" not in key}
    assert kept <= set(back) and all(torch.equal(back[key], state[key]) for key in kept)


@torch.no_grad()
def test_load_and_export_of_a_folder(tmp_path, padded_batch):
    from transformers import SegformerForSemanticSegmentation

    theirs = make()
    theirs.save_pretrained(tmp_path / "theirs")
    model = densevit.load(tmp_path / "theirs").model.eval()
    assert model.architecture.backbone.options["norm_eps"] == 1e-5
    densevit.save(model, tmp_path / "ours.safetensors")
    exported = export(tmp_path / "ours.safetensors", "hf")
    assert exported.layout.name == "transformers-segformer"
    exported.write(tmp_path / "back")
    again = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "back").eval()
    batch = padded_batch([(64, 96), (64, 96)])
    expected = run(theirs, batch)
    torch.testing.assert_close(model(batch)["segmentation"]["logits"], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run(again, batch), expected)


@pytest.mark.parity("nvidia-mit", "transformers-mit")
@pytest.mark.parametrize("authors", [False, True])
def test_backbones_of_classifiers(authors, tmp_path, loaded):

    theirs = make(kind="SegformerForImageClassification")
    state = file_of(theirs, tmp_path)
    images = torch.randn(1, 3, 64, 96)
    expected = theirs(images, output_hidden_states=True).hidden_states
    if authors:
        state = {key.removeprefix("backbone."): x for key, x in authors_state(state).items()}
        state = {re.sub(r"^classifier", "head", key): x for key, x in state.items()}
    name = "nvidia-mit" if authors else "transformers-mit"
    backbone = loaded(state, name)
    assert "non-commercial" in find(name).publishing.licence
    for found, reference in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-4 if not authors else 1e-3)
