"""transformers' Deformable DETR with random weights, in its files and in memory: ours predicts the same boxes."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

import densevit
from densevit.weights.key_mapping import saved_options, translate, translate_back
from densevit.weights.layouts import find, recognise
from densevit_workbench.interchange.foreign_export import export
from densevit_workbench.interchange.foreign_weights import convert
from tests.weights.layouts.test_detr import USED

pytestmark = pytest.mark.integration

SIZE = (96, 130)
OWN_RESNET = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
SMALL = {
    "num_queries": 17,
    "two_stage_num_proposals": 300,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
MODES = {
    "single-scale": {"num_feature_levels": 1},
    "multi-scale": {},
    "refined": {"with_box_refine": True},
    "two-stage": {"with_box_refine": True, "two_stage": True, "two_stage_num_proposals": 60},
}


@torch.no_grad()
def make(backbone, **options):
    """A small model with COCO's 91 ids; all tensors are random so that errors become visible.

    backbone: "timm", or transformers' own. With refinement each layer has its class layer, as in released files.
    """
    from torchvision.models._meta import _COCO_CATEGORIES as NAMES_BY_ID
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    torch.manual_seed(5)
    names = {"id2label": dict(enumerate(NAMES_BY_ID)), "label2id": {}}
    if backbone == "timm":
        given = {"backbone": "resnet18", "use_timm_backbone": True, "use_pretrained_backbone": False}
    else:
        stages = ["stage4"] if options.get("num_feature_levels") == 1 else ["stage2", "stage3", "stage4"]
        given = {"backbone_config": ResNetConfig(**backbone, out_features=stages), "use_timm_backbone": False}
    theirs = DeformableDetrForObjectDetection(DeformableDetrConfig(**given, **SMALL | options, **names)).eval()
    if options.get("with_box_refine"):
        theirs.class_embed, theirs.bbox_embed = copy.deepcopy(theirs.class_embed), copy.deepcopy(theirs.bbox_embed)
        for heads in (theirs.class_embed, theirs.bbox_embed):
            for i in range(len(heads)):
                heads[i] = copy.deepcopy(heads[i])
        theirs.model.decoder.bbox_embed = theirs.bbox_embed
        if options.get("two_stage"):
            theirs.model.decoder.class_embed = theirs.class_embed
    for name, tensor in theirs.named_parameters():
        if "backbone" in name:
            continue
        if "query_position" in name:
            tensor.normal_()
        elif name.endswith("sampling_offsets.bias"):
            tensor.normal_(0, 2)
        elif tensor.ndim == 1:
            norm = "norm.weight" in name or (".input_proj." in name and name.endswith(".1.weight"))
            tensor.normal_(1.0 if norm else 0.0, 0.2)
        else:
            tensor.normal_(0, 0.8 * tensor[0].numel() ** -0.5)
    for name, tensor in theirs.named_buffers():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return theirs


@torch.no_grad()
def run(theirs, batch):
    """As in their image processor: normalised by ImageNet's mean and std, then padded with 0."""
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    padding = batch["padding_mask"]
    pixels = ((batch["images"] / 255 - mean) / std).masked_fill(padding[:, None], 0.0)
    return theirs(pixels, pixel_mask=(~padding).long())


def known(state, name):
    """The layout of that name; checks that the tensors are recognised as such."""
    assert recognise(state).name == name
    return find(name)


def loaded(whole, state, layout, mode, **arguments):
    """Our model with each tensor of a checkpoint, copies left out; the number of proposals is not among the tensors."""
    ours = whole(layout.special.rearrange.forward(state), layout, **arguments)
    if mode == "two-stage":
        ours.heads["detection"].queries.num_queries = MODES[mode]["two_stage_num_proposals"]
    return ours


def same(outputs, reference, rows=slice(None)):
    assert reference.logits.std(1).mean() > 0.05
    assert reference.pred_boxes.std(1).mean() > 0.01
    torch.testing.assert_close(outputs["logits"], reference.logits[..., rows], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["boxes"], reference.pred_boxes, rtol=1e-4, atol=1e-4)


@pytest.mark.parity("transformers-deformable-detr", "transformers-deformable-detr-resnet")
@pytest.mark.parametrize("where", ["file", "memory"])
@pytest.mark.parametrize("backbone", ["timm", OWN_RESNET], ids=["timm", "own"])
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_logits_and_boxes_match_transformers(mode, backbone, where, tmp_path, whole, padded_batch):
    from torchvision.models._meta import _COCO_CATEGORIES as NAMES_BY_ID
    from transformers import DeformableDetrForObjectDetection

    theirs = make(backbone, **MODES[mode])
    name = f"transformers-deformable-detr{'' if backbone == 'timm' else '-resnet'}"
    if where == "file":
        theirs.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        assert "model.decoder.layers.0.self_attn.out_proj.weight" in state  # names of version 4, as on the hub
        theirs = DeformableDetrForObjectDetection.from_pretrained(tmp_path).eval()
    else:
        state = theirs.state_dict()
    layout = known(state, name)
    ours = loaded(whole, state, layout, mode, metadata={"classes": NAMES_BY_ID})
    for sizes in ([SIZE, SIZE], [(61, 130), (96, 83)]):
        batch = padded_batch(sizes)
        same(ours(batch)["detection"], run(theirs, batch), USED)
    ours.heads["detection"].levels.blank_padding = True
    other = ours(batch)["detection"]["logits"] - run(theirs, batch).logits[..., USED]
    assert other.abs().max() > 0.05


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_exported_model_loads_in_transformers(mode, tmp_path, whole, padded_batch):
    from transformers import DeformableDetrForObjectDetection, DeformableDetrImageProcessor

    theirs = make("timm", **MODES[mode])
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    layout = known(state, "transformers-deformable-detr")
    tensors = translate(state, layout).tensors
    back, unknown = translate_back(tensors, layout)
    assert unknown == [] and set(back) >= set(state)  # transformers stores shared tensors once
    save_file({key: x.clone() for key, x in back.items()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = DeformableDetrForObjectDetection.from_pretrained(tmp_path).eval()
    batch = padded_batch([SIZE, SIZE])
    reference = run(again, batch)
    ours = loaded(whole, back, layout, mode)
    same(ours(batch)["detection"], reference, USED)

    # Their post-processing and our predictions agree in every label.
    results = DeformableDetrImageProcessor().post_process_object_detection(
        reference, threshold=0.0, target_sizes=[SIZE, SIZE], top_k=reference.logits.shape[1]
    )
    for found, expected in zip(ours.infer(batch)["detection"], results, strict=True):
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-3, atol=1e-5)
        labels = [ours.classes["detection"][label].file_id for label in found["labels"].tolist()]
        assert labels == expected["labels"].tolist()


def test_options_that_tensors_do_not_determine_are_read_from_the_config():
    from transformers import DeformableDetrConfig

    layout = find("transformers-deformable-detr")
    config = DeformableDetrConfig(
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_n_points=2, decoder_n_points=2, dilation=True,
        with_box_refine=True, two_stage=True, two_stage_num_proposals=500,
    ).to_dict()  # fmt: skip
    head = "heads.detection"
    expected = {"backbone.dilation": True, f"{head}.transformer.num_heads": 4, f"{head}.num_points": 2}
    expected[f"{head}.num_queries"] = 500
    assert saved_options({}, layout, {"config": config}) == expected
    learned = {"model.query_position_embeddings.weight": torch.zeros(50, 8)}
    assert saved_options(learned, layout, {}) == {f"{head}.num_queries": 50}


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_model_of_ours_exports_with_a_config_for_transformers(mode, tmp_path, padded_batch):
    """Through files, as `densevit convert RUN OUT --to hf`, with options that differ from the defaults."""
    from transformers import DeformableDetrForObjectDetection

    head = {"num_levels": MODES[mode].get("num_feature_levels", 4), "num_points": 2, "num_queries": 40}
    head |= {"box_refinement": "with_box_refine" in MODES[mode], "two_stage": "two_stage" in MODES[mode]}
    small = {"width": 64, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 40}
    model = densevit.create_model(
        {"name": "resnet", "depth": 18, "norm": "frozen"},
        heads={"detection": {"name": "deformable_detr", "transformer": small, **head}},
        classes=[f"thing {i}" for i in range(5)],
    ).model
    for parameter in model.heads.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    densevit.save(model, tmp_path / "model.safetensors")
    for name in ("transformers-deformable-detr", "deformable-detr"):
        exported = export(tmp_path / "model.safetensors", "hf" if name.startswith("transformers") else name)
        assert exported.layout.name == name
        exported.write(tmp_path / (name if name.startswith("transformers") else f"{name}.pth"))
    again = DeformableDetrForObjectDetection.from_pretrained(tmp_path / "transformers-deformable-detr").eval()
    batch = padded_batch([SIZE, SIZE])
    same(model.eval()(batch)["detection"], run(again, batch))
    for source in ("transformers-deformable-detr", "deformable-detr.pth"):
        overrides = [f"heads.detection.{key}={head[key]}" for key in ("num_points", "num_queries")]
        overrides.append("heads.detection.transformer.num_heads=4")
        back = convert(tmp_path / source, overrides=overrides if source.endswith(".pth") else ()).model.state_dict()
        assert all(torch.equal(tensor, back[key]) for key, tensor in model.state_dict().items())
