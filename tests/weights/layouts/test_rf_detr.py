"""RF-DETR and LW-DETR: transformers' models with random weights, read from their files and with the authors' names."""

import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import densevit
from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate
from densevit.weights.label_sets import coco_classes
from densevit.weights.layouts import find, recognise
from densevit_backbones.vit.variants import VARIANTS, Variant
from densevit_heads.rf_detr import backbone_checkpoints
from densevit_workbench.interchange.foreign_weights import convert, write
from densevit_workbench.interchange.transformers_export import export
from tests.weights.layouts.models import IMAGENET, assert_same, coco_names, randomised, run

HEAD = "heads.detection"
USED = [one.file_id for one in coco_classes()]
SMALL: dict[str, Any] = {
    "d_model": 64, "decoder_layers": 2, "decoder_ffn_dim": 48, "decoder_self_attention_heads": 2, "group_detr": 3,
    "decoder_cross_attention_heads": 4, "decoder_n_points": 3, "num_queries": 17, "intermediate_size": 256,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "nano", Variant(48, 12, 4, 0.0))
    monkeypatch.setitem(VARIANTS, "lw_tiny", Variant(48, 6, 12, 0.0))
    for name, depth, heads in (("nano", 12, 4), ("lw_tiny", 6, 12)):
        monkeypatch.setitem(backbone_checkpoints.VARIANTS, name, (48, depth, heads))


@torch.no_grad()
def without_unused_rows(theirs: Any) -> Any:
    """Rows of no class are never predicted, as in trained models, so that they do not rank proposals."""
    unused = [row for row in range(91) if row not in USED]
    for name, parameter in theirs.named_parameters():
        if re.search(r"class_embed.*bias", name) and len(parameter) == 91:
            parameter[unused] = -100.0
    return theirs


def rf_detr(kind: str, features: list[int], num_windows: int, patch_size: int, **options: Any) -> Any:
    import transformers

    backbone = transformers.RfDetrDinov2Config(
        hidden_size=48, num_attention_heads=4, image_size=4 * patch_size, patch_size=patch_size, out_indices=features,
        num_windows=num_windows,
    )  # fmt: skip
    config = transformers.RfDetrConfig(backbone_config=backbone, **SMALL | coco_names() | options)
    return without_unused_rows(randomised(getattr(transformers, kind)(config), {"query_feat": 8.0}))


def lw_detr() -> Any:
    import transformers

    backbone = transformers.LwDetrViTConfig(
        hidden_size=48, num_hidden_layers=6, pretrain_image_size=96, window_block_indices=[0, 2, 4],
        out_indices=[2, 4, 6],
    )  # fmt: skip
    config = transformers.LwDetrConfig(
        backbone_config=backbone, projector_scale_factors=[2.0, 0.5], **SMALL | coco_names()
    )
    return without_unused_rows(randomised(transformers.LwDetrForObjectDetection(config), {"query_feat": 8.0}))


CASES = {  # layout, model, sizes of images; windows of transformers are of squares
    "rf-detr": (
        "rf-detr", lambda: rf_detr("RfDetrForObjectDetection", [3, 6, 9, 12], 2, 16), [(128, 128), (90, 128)]
    ),
    "rf-detr, one window": (
        "rf-detr", lambda: rf_detr("RfDetrForObjectDetection", [3, 6, 9, 12], 1, 12), [(96, 132), (96, 100)]
    ),
    "rf-detr, masks": (
        "rf-detr", lambda: rf_detr("RfDetrForInstanceSegmentation", [3, 6, 9, 12], 2, 12), [(96, 96)] * 2
    ),
    "rf-detr base": (
        "rf-detr-base", lambda: rf_detr("RfDetrForObjectDetection", [2, 5, 8, 11], 4, 14), [(112, 112)] * 2
    ),
    "lw-detr": ("transformers-lw-detr", lw_detr, [(128, 192), (100, 192)]),
}  # fmt: skip


@pytest.mark.integration
@pytest.mark.parity("rf-detr", "rf-detr-base", "transformers-lw-detr")
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_outputs_match_transformers(name, tmp_path, padded_batch, written_back):
    layout, make, sizes = CASES[name]
    theirs = make()
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert recognise(state).name == layout
    done = translate(state, find(layout))
    written_back(state, done, find(layout))
    converted = convert(tmp_path)
    ours = converted.model.eval()
    assert ours.classes["detection"] == coco_classes()
    kind = converted.config.heads["detection"].evaluation.name
    assert kind == ("coco_masks" if "masks" in name else None)
    assert name != "rf-detr base" or converted.config.data.image_size == 560
    batch = padded_batch(sizes)
    assert_same(ours(batch)["detection"], run(theirs, batch, *IMAGENET), USED)
    if "lw" not in name:
        write(converted, tmp_path / "run")
        export(tmp_path / "run", tmp_path / "hf")
        again = type(theirs).from_pretrained(tmp_path / "hf").eval()
        assert_same(ours(batch)["detection"], run(again, batch, *IMAGENET), USED)


HEADS = [  # transformers' names of LW-DETR -> the authors'
    (r"^model\.decoder\.layernorm\.", "transformer.decoder.norm."),
    (r"^model\.reference_point_embed\.", "refpoint_embed."),
    (r"^model\.query_feat\.", "query_feat."),
    (r"^model\.(decoder|enc_)", r"transformer.\1"),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.cross_attn_layer_norm\.", ".norm2."),
    (r"\.layer_norm\.", ".norm3."),
    (r"\.mlp\.fc", ".linear"),
    (r"\.o_proj\.", ".out_proj."),
]


def authors_state(theirs: Any) -> dict[str, torch.Tensor]:
    """The state dict of transformers' LW-DETR with the authors' names, its backbone's and projector's as they are."""
    state = {}
    for key, tensor in theirs.state_dict().items():
        if not key.startswith("model.backbone."):
            for pattern, replacement in HEADS:
                key = re.sub(pattern, replacement, key)
        state[key] = tensor
    for key in [key for key in state if ".self_attn.q_proj." in key]:
        parts = [state.pop(key.replace("q_proj", f"{name}_proj")) for name in "qkv"]
        state[key.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return state


@pytest.mark.parity("lw-detr")
def test_the_authors_names_of_lw_detr_are_read():
    """The head's; those of backbone and projector are compared in tests/backbones/vit."""
    theirs = lw_detr()
    lines = tuple(line for line in find("lw-detr").lines if line.key.startswith(HEAD))
    state = {key: x for key, x in authors_state(theirs).items() if not key.startswith("model.backbone.")}
    done = translate(state, replace(find("lw-detr"), marks=(), lines=lines))
    expected = translate(theirs.state_dict(), find("transformers-lw-detr")).tensors
    assert (done.unknown, done.errors) == ([], [])
    assert done.tensors.keys() == {key for key in expected if key.startswith(HEAD)}
    assert all(torch.equal(x, expected[key]) for key, x in done.tensors.items())


def test_every_name_of_the_authors_model_is_read(released, monkeypatch):
    state = released("rf_detr_seg_small")
    layout = find("rf-detr")
    assert recognise(state) is layout
    done = translate(state, layout)
    assert (done.unknown, done.errors) == ([], [])
    sections = describe(state, layout)
    assert sections["heads"]["detection"]["num_queries"] == 100 and sections["backbone"]["image_size"] == 384
    assert (sections["backbone"]["num_windows"], sections["heads"]["detection"]["cross_attention_heads"]) == (2, 16)
    assert layout.publishing.recipe(sections, {}) == ("start/rf_detr_masks", {"data": {"image_size": 384}})
    model = densevit.create_model(sections["backbone"], sections["heads"], [one.name for one in coco_classes()]).model
    assert {key: x.shape for key, x in done.tensors.items()} == {k: x.shape for k, x in model.state_dict().items()}


@pytest.mark.integration
def test_other_classes_have_the_rows_of_their_names(tmp_path):
    theirs = rf_detr("RfDetrForInstanceSegmentation", [3, 6, 9, 12], 2, 12)
    theirs.save_pretrained(tmp_path / "theirs")
    converted = convert(tmp_path / "theirs")
    names, old = ["owl", "dog", "cat"], [one.name for one in converted.model.classes["detection"]]
    sections = describe(load_file(tmp_path / "theirs" / "model.safetensors"), find("rf-detr"))
    ours = densevit.create_model(sections["backbone"], sections["heads"], names, weights=str(tmp_path / "theirs"))
    found, expected = (one.heads["detection"].state_dict() for one in (ours.model, converted.model))
    for key, x in found.items():
        if "label_head" in key:
            assert torch.equal(x[1:], expected[key][[old.index("dog"), old.index("cat")]]), key
        else:
            assert torch.equal(x, expected[key]), key


@pytest.mark.integration
def test_own_classes_and_options_of_the_authors_files(tmp_path):
    """A file of their package has the names of classes, a further row, and the options of its model."""
    theirs = rf_detr("RfDetrForObjectDetection", [2, 5, 8, 12], 1, 16, num_labels=4, id2label=None, label2id=None)
    theirs.save_pretrained(tmp_path)
    options = {"sa_nheads": 2, "ca_nheads": 4, "dec_n_points": 3, "num_windows": 1}
    options["out_feature_indexes"] = [2, 5, 8, 12]
    content = {"model": load_file(tmp_path / "model.safetensors"), "args": {"class_names": ["cat", "dog", "owl"]}}
    torch.save({**content, "model_config": options}, tmp_path / "checkpoint_best_total.pth")
    ours = convert(tmp_path / "checkpoint_best_total.pth").model
    assert [one.name for one in ours.classes["detection"]] == ["cat", "dog", "owl", "none"]
    backbone, head = ours.backbone, ours.heads["detection"]
    assert (backbone.num_windows, backbone.feature_blocks) == (1, (2, 5, 8, 12))
    assert (head.decoder[0].self_attention.num_heads, head.decoder[0].cross_attention.heads) == (2, 4)


@pytest.mark.integration
@pytest.mark.parametrize("read", [densevit.load, partial(densevit.create_model, "coco/rf_detr_nano", classes=["a"])])
def test_xl_of_another_licence_is_refused(read, tmp_path):
    """Also as the weights of a recipe, whose model has another patch size."""
    rf_detr("RfDetrForObjectDetection", [3, 6, 9, 12], 2, 20).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"patch size 20, .*XL and 2XL.* licence is PML 1\.0.* Use rf-detr-large"):
        read(str(tmp_path)) if read is densevit.load else read(weights=str(tmp_path))
