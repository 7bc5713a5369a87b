"""Panoptic DETR's checkpoints: the release's tensors, transformers' files and models, and detectors that start it."""

from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file

from densevit import config as configs
from densevit.errors import WeightsError
from densevit.interfaces import IMAGENET_MEAN, IMAGENET_STD
from densevit.weights.building import build_model
from densevit.weights.checkpoint_io import read
from densevit.weights.key_mapping import translate, translate_back
from densevit.weights.label_sets import coco_classes, coco_panoptic_classes
from densevit.weights.layouts import find, recognise
from densevit.weights.model_file import save
from densevit.weights.pretrained import load_pretrained
from densevit_heads.detr_panoptic.checkpoints import DETR_PANOPTIC
from densevit_workbench.interchange.foreign_export import export
from tests.weights.layouts.test_detr_originals import recorded

pytestmark = pytest.mark.integration

SIZES = [(96, 130), (70, 111), (125, 64)]
KEPT = [*(one.file_id for one in coco_panoptic_classes()), 250]
WIDTH, HEADS = 128, 8
OWN_RESNET = {
    "embedding_size": 64,
    "hidden_sizes": [64, 128, 256, 512],
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def same(outputs, logits, boxes, masks, rows=slice(None)):
    assert logits[..., rows].std(1).mean() > 0.1 and boxes.std(1).mean() > 0.01 and masks.std(1).mean() > 0.01
    torch.testing.assert_close(outputs["logits"], logits[..., rows], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["boxes"], boxes, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["masks"], masks, rtol=1e-4, atol=1e-4)


def test_each_tensor_of_an_r50_is_used_once_and_the_parameters_are_the_paper_s(whole, released):
    with torch.device("meta"):
        state = {f"detr.{name}": x for name, x in released("detr_r50").items()}
        state |= {
            f"detr.class_embed.{kind}": torch.empty(251, *size) for kind, size in (("weight", (256,)), ("bias", ()))
        }
        state |= mask_head(256, (1024, 512, 256))
    model = whole(state, DETR_PANOPTIC, thirds="in_proj_")
    count = sum(tensor.numel() for tensor in state.values())
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == count - (251 - len(KEPT)) * 257
    norms = (".bn", ".downsample.1.", ".body.bn1.")  # frozen: no parameters
    parameters = sum(x.numel() for name, x in state.items() if "body" not in name or not any(n in name for n in norms))
    assert round(parameters / 1e6, 1) == 42.9
    assert model.architecture.backbone.options["depth"] == 50


def mask_head(width, features):
    """The tensors of the release's mask head and of its attention maps. features: the channels of the ResNet's maps."""
    state = {f"bbox_attention.{x}_linear.{kind}": torch.empty(width, *([width] if kind == "weight" else []))
             for x in "qk" for kind in ("weight", "bias")}  # fmt: skip
    sizes = [width + 8, width + 8, width // 2, width // 4, width // 8, width // 16]  # with a map for each of 8 heads
    shapes = {f"lay{i}": (b, a, 3, 3) for i, (a, b) in enumerate(pairwise(sizes), 1)}
    shapes["out_lay"] = (1, sizes[-1], 3, 3)
    shapes |= {f"gn{i}": (b,) for i, b in enumerate(sizes[1:], 1)}
    shapes |= {f"adapter{i}": (b, a, 1, 1) for i, (a, b) in enumerate(zip(features, sizes[2:5], strict=True), 1)}
    for name, shape in shapes.items():
        state |= {f"mask_head.{name}.weight": torch.empty(shape), f"mask_head.{name}.bias": torch.empty(shape[0])}
    return state


# ---- transformers ----


def pixels_of(batch):
    """Normalised by ImageNet's mean and std, then padded with 0."""
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    return ((batch["images"] / 255 - mean) / std).masked_fill(batch["padding_mask"][:, None], 0)


@pytest.fixture(scope="module", params=["timm", "own"])
def coco(request, padded_batch):
    """A small panoptic DETR with COCO's 250 ids, its backbone from timm or from transformers itself."""
    from transformers import DetrConfig, ResNetConfig

    names = dict.fromkeys(range(250))
    names = {i: f"LABEL_{i}" for i in names} | {one.file_id: one.name for one in coco_panoptic_classes()}
    small = {"num_queries": 7, "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48}
    small |= {"decoder_ffn_dim": 48, "id2label": names, "label2id": {}}
    if request.param == "timm":
        return "transformers-detr-panoptic", make(
            DetrConfig(backbone="resnet18", use_timm_backbone=True, **small), padded_batch(SIZES)
        )
    config = DetrConfig(backbone_config=ResNetConfig(**OWN_RESNET), use_timm_backbone=False, **small)
    return "transformers-detr-panoptic-resnet", make(config, padded_batch(SIZES))


@torch.no_grad()
def make(config, batch):
    from transformers import DetrForSegmentation

    torch.manual_seed(5)
    theirs = DetrForSegmentation(config).eval()
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
    theirs.mask_head.conv1.conv.weight[:, WIDTH:] *= 1500  # attention maps sum to 1

    def run(pixels, padding):
        return theirs(pixels, pixel_mask=(~padding).long())

    projection = theirs.detr.model.input_projection
    projected = []
    hook = projection.register_forward_hook(lambda module, inputs, output: projected.append(output))
    run(pixels_of(batch), batch["padding_mask"])
    hook.remove()
    mean, std = projected[0].mean((0, 2, 3)), projected[0].std((0, 2, 3))
    projection.weight.div_(std[:, None, None, None])
    projection.bias.sub_(mean).div_(std)
    return theirs


def outputs_of(theirs, batch):
    output = theirs(pixels_of(batch), pixel_mask=(~batch["padding_mask"]).long())
    return output.logits, output.pred_boxes, output.pred_masks


@pytest.mark.parity("transformers-detr-panoptic", "transformers-detr-panoptic-resnet")
@pytest.mark.parametrize("where", ["file", "memory"])
@torch.no_grad()
def test_outputs_match_transformers(coco, where, tmp_path, whole, padded_batch):
    name, theirs = coco
    if where == "file":
        theirs.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        assert "mask_head.lay1.weight" in state  # names of version 4, as on the Hub
    else:
        state = theirs.state_dict()
    assert recognise(state) is find(name)
    ours = whole(state, find(name), metadata={"classes": [theirs.config.id2label[i] for i in range(250)]})
    batch = padded_batch(SIZES)
    same(ours(batch)["panoptic"], *outputs_of(theirs, batch), KEPT)


@torch.no_grad()
def test_exported_tensors_load_in_transformers(coco, tmp_path, whole, padded_batch):
    from transformers import DetrForSegmentation

    name, theirs = coco
    theirs.save_pretrained(tmp_path)
    before = load_file(tmp_path / "model.safetensors")
    back, unknown = translate_back(translate(before, find(name)).tensors, find(name))
    assert unknown == [] and set(back) == set(before)
    save_file(back, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = DetrForSegmentation.from_pretrained(tmp_path).eval()
    batch = padded_batch(SIZES)
    same(whole(back, find(name))(batch)["panoptic"], *outputs_of(again, batch), KEPT)


@torch.no_grad()
def test_a_model_exports_with_its_config_to_transformers(coco, tmp_path, whole, padded_batch):
    from transformers import DetrForSegmentation

    batch, (name, source) = padded_batch(SIZES), coco
    ours = whole(source.state_dict(), find(name))
    save(ours, tmp_path / "model.safetensors")
    export(tmp_path / "model.safetensors", "hf").write(tmp_path / "hf")
    theirs = DetrForSegmentation.from_pretrained(tmp_path / "hf").eval()
    assert theirs.config.id2label[187] == "sky-other-merged"
    same(ours(batch)["panoptic"], *outputs_of(theirs, batch), KEPT)


# ---- from a detector ----


def written_detector(project, rows, folder, names):
    """A file of a small detector of facebookresearch or transformers. names: of the classes, by row."""
    from transformers import DetrConfig, DetrForObjectDetection

    if project == "detr":
        state = {key.removeprefix("detr."): x for key, x in recorded("detr-panoptic")[0].items() if key[:5] == "detr."}
        state |= {key: x[:rows] for key, x in state.items() if key.startswith("class_embed.")}
        torch.save({"model": state}, folder / "detector.pth")
        return folder / "detector.pth"
    small = {"num_queries": 5, "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48}
    small |= {"decoder_ffn_dim": 48, "id2label": dict(enumerate(names)), "label2id": {}}
    DetrForObjectDetection(DetrConfig(backbone="resnet50", use_timm_backbone=True, **small)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("key", ["weights", "heads.panoptic.weights"])
@pytest.mark.parametrize("project", ["detr", "transformers-detr"])
def test_a_detector_of_the_same_classes_starts_the_head(project, key, tmp_path):
    """All of its tensors are loaded, also those of the 133 classes among 250 file ids; the mask head is new."""
    names = {one.file_id: one.name for one in coco_panoptic_classes()}
    file = written_detector(project, 251, tmp_path, [names.get(i, f"LABEL_{i}") for i in range(250)])
    model, config = started(file, key, coco_panoptic_classes())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    [fit] = load_pretrained(model, config)

    checkpoint = read(file)
    expected = translate(checkpoint.tensors, find(project)).tensors
    theirs = {name.replace("heads.detection.", "heads.panoptic."): x for name, x in expected.items()}
    parts = ("heads.", "backbone.") if key == "weights" else ("heads.",)
    own = model.state_dict()
    assert len(theirs["heads.panoptic.label_head.bias"]) == 134
    assert all(torch.equal(own[name], tensor) for name, tensor in theirs.items() if name.startswith(parts))
    new = {name for name in own if name.startswith("heads.") and name not in theirs}
    assert {name.split(".")[2] for name in new} == {"attention_maps", "mask_head"}
    assert all(torch.equal(own[name], before[name]) for name in new)

    prefix = "" if key == "weights" else "heads.panoptic."
    assert {prefix + name for name in fit.initialised} == new and not fit.missing and not fit.left_out
    assert set(fit.initialised.values()) == {"the weights are of a head for detection, which has no such part"}
    assert fit.notes[0] == f"Read as {project}."


def test_a_detector_of_things_gives_their_rows_of_the_class_layer(tmp_path):
    """The 80 things are the first of the 133 panoptic classes; the rows of stuff keep their initial values."""
    model, config = started(written_detector("detr", 92, tmp_path, ()), "weights", coco_panoptic_classes())
    before = model.heads["panoptic"].label_head.weight.detach().clone()
    [fit] = load_pretrained(model, config)
    assert not fit.left_out
    assert {one.name for one in fit.adapted} == {f"heads.panoptic.label_head.{x}" for x in ("weight", "bias")}
    after = model.heads["panoptic"].label_head.weight
    assert torch.equal(after[80:133], before[80:133]) and not (after[:80] == before[:80]).any()


def test_a_detector_with_other_tensors_raises(tmp_path):
    """Only what a detector never has may be missing."""
    model, config = started(written_detector("detr", 92, tmp_path, ()), "weights", coco_classes(), positions="learned")
    with pytest.raises(WeightsError, match=r"2 tensors are missing \(heads.panoptic.positions"):
        load_pretrained(model, config)


def started(file, key, classes, **options):
    small = {"width": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "feedforward": 48}
    detr = {"num_queries": 5, "transformer": small, **options}
    head = {"name": "detr_panoptic", "detr": detr, "freeze_detector": True}
    values = {"backbone": {"name": "resnet", "depth": 50, "norm": "frozen"}, "heads": {"panoptic": head}}
    values |= {"data": {"name": "scenes"}, "trainer": {"max_steps": 1}}
    config = configs.from_mapping(values, "config", [f"{key}={file}"])
    return build_model(config, {"panoptic": classes}), config


def test_250_classes_other_than_coco_s_raise():
    classes = find("transformers-detr-panoptic").classes
    state = {"detr.class_labels_classifier.bias": torch.zeros(251)}
    assert len(classes(state, {})["panoptic"]) == 133
    instances = classes({"detr.class_labels_classifier.bias": torch.zeros(92)}, {})["panoptic"]
    assert instances == coco_classes()  # instance segmentation
    names = [f"LABEL_{i}" for i in range(250)]
    assert len(classes(state, {"classes": names})["panoptic"]) == 133
    names[187] = "heaven"
    with pytest.raises(WeightsError, match="Class 187 of 250 is called 'heaven', in COCO panoptic 'sky-other-merged'"):
        classes(state, {"classes": names})
    other = classes({"detr.class_labels_classifier.bias": torch.zeros(4)}, {"classes": ["cat", "sky", "road"]})
    assert [(one.name, one.file_id) for one in other["panoptic"]] == [("cat", 0), ("sky", 1), ("road", 2)]
