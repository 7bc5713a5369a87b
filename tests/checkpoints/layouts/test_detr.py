"""DETR and Deformable DETR: recorded outputs, released names, rows of classes, detectors that start panoptic DETR."""

import pytest
import torch

from densevit import config as configs
from densevit.errors import WeightsError
from densevit.layouts import coco_classes, coco_panoptic_classes, find
from densevit_checkpoints.key_mapping import describe, translate, translate_back
from densevit_checkpoints.recognition import recognise
from densevit_heads.deformable_detr.checkpoints import DEFORMABLE_DETR
from densevit_heads.detr.checkpoints import DETR
from densevit_heads.parts.detector_checkpoints import IMPOSSIBLE
from tests.built_models import build_model
from tests.checkpoints.layouts.originals.weights import DETR_BATCHES, NUM_PROPOSALS, detr_image, key_of, random_detr
from tests.checkpoints.layouts.recordings import recorded
from tests.checkpoints.layouts.translations import released, whole
from tests.padded_batches import padded
from tests.weights.loading import built

pytestmark = pytest.mark.integration


@pytest.mark.parity("detr", "detr-panoptic", "deformable-detr")
@pytest.mark.parametrize(
    "original", ["detr", "detr-learned", "detr-panoptic", "deformable-detr", "deformable-detr-two-stage"]
)
@torch.no_grad()
def test_outputs_are_those_of_the_original(original):
    shapes, expected = recorded(original)
    state = random_detr(shapes)
    layout = recognise(state)
    assert original.startswith(layout.name)
    used = layout.special.rearrange.forward(state) if layout.special.rearrange else state
    model = whole(used, layout, thirds="in_proj_")
    model.double()  # as recorded
    [(task, head)] = model.heads.items()
    if original.endswith("two-stage"):
        head.queries.num_queries = NUM_PROPOSALS  # not determined by tensors
    rows = [one.file_id for one in (coco_panoptic_classes if task == "panoptic" else coco_classes)()]
    if layout.name != "deformable-detr":
        rows.append(-1)  # "no object"
    for sizes in DETR_BATCHES[1 : 3 if original == layout.name else 2]:  # padded, and of one image
        outputs, key = model(padded([detr_image(*size) for size in sizes]))[task], key_of(sizes)
        found = {"logits": outputs["layers"][0], "boxes": outputs["layers"][1]}
        theirs = {"logits": expected[f"{key}.logits"][..., rows], "boxes": expected[f"{key}.boxes"]}
        if task == "panoptic":
            found["masks"], theirs["masks"] = outputs["masks"][None, ..., ::3, ::3], expected[f"{key}.masks"][None]
        for kind, x in theirs.items():
            spread = x.std(2).mean()  # between queries
            assert spread > 0.02, (kind, spread)
            torch.testing.assert_close(found[kind].float(), x, atol=1e-4, rtol=1e-4)


UNUSED = [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]  # of COCO's 91 ids, the ones without a class
USED = [i for i in range(91) if i not in UNUSED]
R50 = {"name": "resnet", "depth": 50, "dilation": False, "norm": "frozen", "frozen_stages": 2}
TRANSFORMER = {"width": 256, "num_heads": 8, "encoder_layers": 6, "decoder_layers": 6}


def state_of(original):
    return random_detr(recorded(original)[0])


def test_classes_match_coco_s_files():
    from torchvision.models._meta import _COCO_CATEGORIES as NAMES_BY_ID

    assert [i for i, name in enumerate(NAMES_BY_ID) if name not in ("__background__", "N/A")] == USED
    assert [(one.name, one.file_id) for one in coco_classes()] == [(NAMES_BY_ID[i], i) for i in USED]


def test_released_names_are_described():
    with torch.device("meta"):
        state = released("detr_r50")
    assert recognise(state) is DETR
    model = whole(state, DETR, thirds="in_proj_")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 41302368 - len(UNUSED) * (256 + 1)
    transformer = {**TRANSFORMER, "feedforward": 2048}
    head = {"name": "detr", "num_queries": 100, "transformer": transformer, "positions": "sine", "pre_norm": False}
    assert describe(state, DETR) == {"backbone": R50, "heads": {"detection": head}}

    state = released("deformable_detr_r50_two_stage")
    for key in state:  # which has its prediction layers in the decoder, too
        if (original := key.removeprefix("transformer.decoder.")) in state:
            state[key] = state[original]
    state = DEFORMABLE_DETR.special.rearrange.forward(state)
    head = {
        "name": "deformable_detr",
        "num_queries": 300,
        "transformer": {**TRANSFORMER, "feedforward": 1024},
        "num_levels": 4,
        "min_stride": 8,
        "num_points": 4,
        "box_refinement": True,
        "two_stage": True,
    }
    assert describe(state, DEFORMABLE_DETR) == {
        "backbone": R50, "heads": {"detection": head | {"blank_padding": False}},
    }  # fmt: skip


# ---- rows of classes ----


def test_unused_rows_are_written_without_effect():
    state = state_of("detr")
    back, unknown = translate_back(translate(state, DETR).tensors, DETR)
    assert unknown == [] and set(back) == set(state)
    for name, tensor in state.items():
        rows = [*USED, 91] if name.startswith("class_embed") else slice(None)
        assert torch.equal(back[name][rows], tensor[rows]), name
    assert not back["class_embed.weight"][UNUSED].any()
    assert torch.equal(back["class_embed.bias"][UNUSED], torch.full((len(UNUSED),), IMPOSSIBLE))


def test_classes_other_than_coco_s_of_as_many_rows_are_refused():
    from torchvision.models._meta import _COCO_CATEGORIES as NAMES_BY_ID

    classes, state = find("transformers-detr").classes, {"class_labels_classifier.bias": torch.zeros(92)}
    assert len(classes(state, {})["detection"]) == 80
    names = [*NAMES_BY_ID]
    names[17] = "lynx"
    with pytest.raises(WeightsError, match="Class 17 of 91 is called 'lynx', in COCO 'cat'"):
        classes(state, {"classes": names})


# ---- a detector that starts panoptic DETR ----


def test_a_detector_of_the_same_classes_starts_the_head(tmp_path):
    """All of its tensors are loaded, also those of the 133 classes among 250 file ids; the mask head is new."""
    state = {key.removeprefix("detr."): x for key, x in state_of("detr-panoptic").items() if key.startswith("detr.")}
    torch.save({"model": state}, tmp_path / "detector.pth")
    before, model, fit = started(tmp_path / "detector.pth", coco_panoptic_classes())

    theirs = {
        key.replace("heads.detection.", "heads.panoptic."): x for key, x in translate(state, DETR).tensors.items()
    }
    own = model.state_dict()
    assert len(theirs["heads.panoptic.label_head.bias"]) == 134
    assert all(torch.equal(own[name], tensor) for name, tensor in theirs.items())
    new = {name for name in own if name.startswith("heads.") and name not in theirs}
    assert {name.split(".")[2] for name in new} == {"attention_maps", "mask_head"}
    assert all(torch.equal(own[name], before[name]) for name in new)
    assert set(fit.initialised) == new and not fit.missing and not fit.ignored_keys
    assert set(fit.initialised.values()) == {"the weights are of a head for detection, which lacks this part"}


def started(file, classes):
    """The initial values of a model, the model with the weights of a file, and the report."""
    small = {"width": 128, "encoder_layers": 2, "decoder_layers": 2, "feedforward": 48}
    detr = {"num_queries": 5, "transformer": small}
    head = {"name": "detr_panoptic", "detr": detr, "freeze_detector": True}
    values = {
        "backbone": {"name": "resnet", "depth": 50, "norm": "frozen"},
        "heads": {"panoptic": head},
        "data": {"name": "scenes"},
        "trainer": {"max_steps": 1},
    }
    config = configs.from_mapping(values, "config", [f"weights={file}"])
    torch.manual_seed(0)
    initial = build_model(config, {"panoptic": classes}).state_dict()
    torch.manual_seed(0)
    model, _, [fit] = built(config, {"panoptic": classes})
    return initial, model, fit


# ---- more queries ----
