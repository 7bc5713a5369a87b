"""transformers' DETR with random weights, in its files and in memory: ours predicts the same boxes."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from densevit.errors import WeightsError
from densevit.weights.key_mapping import translate, translate_back
from densevit.weights.layouts import find, recognise
from tests.weights.layouts.test_detr import UNUSED, USED

pytestmark = pytest.mark.integration

SIZES = [(96, 130), (70, 111), (125, 64)]
OWN_RESNET = {
    "embedding_size": 64,
    "hidden_sizes": [64, 128, 256, 512],
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
    "out_features": ["stage4"],
}
SMALL = {
    "num_queries": 7,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}


def run(theirs, batch):
    """As in their image processor: normalised by ImageNet's mean and std, then padded with 0."""
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = ((batch["images"] / 255 - mean) / std).masked_fill(batch["padding_mask"][:, None], 0)
    return theirs(pixels, pixel_mask=(~batch["padding_mask"]).long())


@torch.no_grad()
def make(model, config, batch):
    """Randomises all tensors so that errors become visible; inputs to the transformer differ between cells."""
    torch.manual_seed(5)
    theirs = model(config).eval()
    for name, tensor in theirs.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("num_batches_tracked"):
            continue
        elif "query_position" in name:
            tensor.normal_(0, 4)
        elif tensor.ndim == 1:
            tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)
        else:
            sharper = "q_proj" in name or "k_proj" in name or "v_proj" in name or "bbox_predictor.layers.2" in name
            tensor.normal_(0, (1.5 if sharper else 1.0) * tensor[0].numel() ** -0.5)
    projected = []
    projection = theirs.model.input_projection
    hook = projection.register_forward_hook(lambda module, inputs, output: projected.append(output))
    run(theirs, batch)
    hook.remove()
    mean, std = projected[0].mean((0, 2, 3)), projected[0].std((0, 2, 3))
    projection.weight.div_(std[:, None, None, None])
    projection.bias.sub_(mean).div_(std)
    return theirs


@pytest.fixture(scope="module", params=["timm", "own"])
def coco(request, padded_batch):
    """A small DETR with COCO's 91 ids, its backbone from timm or from transformers itself."""
    from torchvision.models._meta import _COCO_CATEGORIES as NAMES_BY_ID
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    names = {"id2label": dict(enumerate(NAMES_BY_ID)), "label2id": {}}
    if request.param == "timm":
        return "transformers-detr", make(
            DetrForObjectDetection,
            DetrConfig(backbone="resnet18", use_timm_backbone=True, **SMALL, **names),
            padded_batch(SIZES),
        )
    own = ResNetConfig(**OWN_RESNET)
    config = DetrConfig(backbone_config=own, use_timm_backbone=False, **SMALL, **names)
    return "transformers-detr-resnet", make(DetrForObjectDetection, config, padded_batch(SIZES))


def known(state, name):
    """The layout of that name; checks that the tensors are recognised as such."""
    assert recognise(state) is find(name)
    return find(name)


def same(outputs, reference, rows=slice(None)):
    assert reference.logits.std(1).mean() > 0.1
    assert reference.pred_boxes.std(1).mean() > 0.01
    torch.testing.assert_close(outputs["logits"], reference.logits[..., rows], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["boxes"], reference.pred_boxes, rtol=1e-4, atol=1e-4)


@pytest.mark.parity("transformers-detr", "transformers-detr-resnet")
@pytest.mark.parametrize("where", ["file", "memory"])
@torch.no_grad()
def test_logits_and_boxes_match_transformers(coco, where, tmp_path, whole, padded_batch):
    from torchvision.models._meta import _COCO_CATEGORIES as NAMES_BY_ID

    name, theirs = coco
    if where == "file":
        theirs.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        assert "model.encoder.layers.0.self_attn.out_proj.weight" in state  # names of version 4, as on the hub
    else:
        state = theirs.state_dict()
    ours = whole(state, known(state, name), metadata={"classes": NAMES_BY_ID})
    batch = padded_batch(SIZES)
    same(ours(batch)["detection"], run(theirs, batch), [*USED, 91])


@torch.no_grad()
def test_exported_model_loads_in_transformers(coco, tmp_path, whole, padded_batch):
    from transformers import DetrForObjectDetection, DetrImageProcessor

    name, theirs = coco
    theirs.save_pretrained(tmp_path)
    before = load_file(tmp_path / "model.safetensors")
    back, unknown = translate_back(translate(before, find(name)).tensors, find(name))
    assert unknown == []
    assert set(back) == set(before)
    for key, tensor in before.items():
        rows = [*USED, 91] if key.startswith("class_labels") else slice(None)
        assert torch.equal(back[key][rows], tensor[rows]), key
    save_file(back, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = DetrForObjectDetection.from_pretrained(tmp_path).eval()
    batch = padded_batch(SIZES)
    reference = run(again, batch)
    same(whole(back, known(back, name))(batch)["detection"], reference, [*USED, 91])
    assert reference.logits.softmax(-1)[..., UNUSED].max() == 0

    # Then their post-processing and our predictions agree in every label.
    processor = DetrImageProcessor()
    results = processor.post_process_object_detection(reference, threshold=0.0, target_sizes=SIZES)
    ours = whole(back, known(back, name))
    for found, expected in zip(ours.infer(batch)["detection"], results, strict=True):
        scores, order = expected["scores"].sort(descending=True, stable=True)
        torch.testing.assert_close(found["scores"], scores, rtol=1e-3, atol=1e-5)
        labels = [ours.classes["detection"][label] for label in found["labels"].tolist()]
        assert [one.file_id for one in labels] == expected["labels"][order].tolist()
        assert [one.name for one in labels] == [again.config.id2label[i] for i in expected["labels"][order].tolist()]


@torch.no_grad()
def test_dc5_sets_the_backbone_dilation(whole, padded_batch):
    from transformers import DetrConfig, DetrForObjectDetection

    config = DetrConfig(backbone="resnet50", use_timm_backbone=True, dilation=True, num_labels=4, **SMALL)
    theirs = make(DetrForObjectDetection, config, padded_batch(SIZES))
    ours = whole(theirs.state_dict(), known(theirs.state_dict(), "transformers-detr"), dilation=True)
    batch = padded_batch(SIZES)
    same(ours(batch)["detection"], run(theirs, batch))


@torch.no_grad()
def test_table_transformer_is_a_pre_norm_detr(tmp_path, whole, padded_batch):
    from transformers import ResNetConfig, TableTransformerConfig, TableTransformerForObjectDetection

    config = TableTransformerConfig(
        backbone_config=ResNetConfig(**OWN_RESNET),
        use_timm_backbone=False,
        id2label={0: "table", 1: "table rotated"},
        **SMALL,
    )
    theirs = make(TableTransformerForObjectDetection, config, padded_batch(SIZES))
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    ours = whole(state, known(state, "transformers-detr-resnet"), metadata={"classes": ["table", "table rotated"]})
    assert [(one.name, one.file_id) for one in ours.classes["detection"]] == [("table", 0), ("table rotated", 1)]
    batch = padded_batch(SIZES)
    same(ours(batch)["detection"], run(theirs, batch))


def test_91_classes_other_than_coco_s_raise():
    from torchvision.models._meta import _COCO_CATEGORIES as NAMES_BY_ID

    state = {"class_labels_classifier.bias": torch.zeros(92)}
    classes = find("transformers-detr").classes
    assert len(classes(state, {})["detection"]) == 80
    names = [*NAMES_BY_ID]
    names[17] = "lynx"
    with pytest.raises(WeightsError, match="Class 17 of 91 is called 'lynx', in COCO 'cat'"):
        classes(state, {"classes": names})
