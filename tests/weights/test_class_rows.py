"""Rows of classes are loaded by name."""

import pytest
import torch

from densevit.interfaces import Class
from densevit.weights.model_file import save
from tests.built_models import build_model
from tests.weights.loading import config_of, loaded, model_of


@pytest.mark.parametrize(
    ("names", "rows"),  # the row in the file of cat, of hot dog and of "no object"; None: initial
    [
        (["cow", "Hot_dog", "pig", "cat"], (3, 1, 4)),
        (["Cat, felis", "hot_dog"], (0, 1, 2)),
        (["CAT", "Cat", "hot dog"], (None, 2, 3)),  # ambiguous
    ],
)
def test_rows_of_classes_are_loaded_by_name(tmp_path, names, rows):
    classes = {"detection": [Class(name, i, (0, 0, 0)) for i, name in enumerate(names)]}
    source = build_model(config_of(), classes)
    save(source, tmp_path / "model.safetensors")
    torch.manual_seed(0)
    initial = model_of().heads["boxes"].label_head.state_dict()
    torch.manual_seed(0)
    model, _, [report] = loaded(weights=str(tmp_path))
    head = model.heads["boxes"]
    for key, value in source.heads["boxes"].label_head.state_dict().items():
        expected = [initial[key][i] if row is None else value[row] for i, row in enumerate(rows)]
        assert torch.equal(head.label_head.state_dict()[key], torch.stack(expected))
    assert torch.equal(head.hidden.weight, source.heads["boxes"].hidden.weight)
    assert report.loaded == (8 if rows == (0, 1, 2) else 6) and report.ignored_keys == {}
    count = 2 if rows[0] is not None else 1
    assert {one.how for one in report.adapted} <= {f"the rows of {count} of 2 classes, by name"}
    notes = [note for note in report.notes if "lack" in note]
    assert notes == (["Classes of head 'boxes' that these weights lack: cat."] if count == 1 else [])
