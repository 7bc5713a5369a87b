"""densevit/targets/semantic_maps.py: file ids of label maps, and where their errors are drawn."""

from types import SimpleNamespace

import numpy as np
import pytest

from densevit.errors import DataError
from densevit.interfaces import IGNORE, Class
from densevit.targets import LabelMap, PanopticMap
from densevit.targets.semantic_maps import check_distinct_ids

CLASSES = (Class("cat", 17, (255, 0, 0)), Class("sky", 300, (0, 0, 255), thing=False))


@pytest.mark.parametrize(("file_ids", "none"), [((7, 0), 255), ((255, 3), 65535)])
def test_pixels_of_no_class_are_no_class_in_files(file_ids, none):
    """`evaluate --map` leaves pixels without a class, 255, which no class's file id may be confused with."""
    classes = tuple(Class(str(n), n, (n % 256, 5, 9)) for n in file_ids)
    value = np.array([[0, 255], [1, 0]], np.uint8)
    files = LabelMap().encode(value, classes)
    assert np.asarray(files[".png"]).tolist() == [[file_ids[0], none], [file_ids[1], file_ids[0]]]
    assert np.array_equal(LabelMap().decode(files, classes), value)
    with pytest.raises(DataError, match=r"has the value 2; 0 \.\.\. 1 is expected, for 2 classes, or 255 for no class"):
        LabelMap().encode(np.array([[0, 2, 255]], np.uint8), classes)


def test_classes_of_one_file_id_are_an_error():
    check_distinct_ids(CLASSES)
    with pytest.raises(DataError, match=r"'cat' and 'dog' .* 17"):
        check_distinct_ids([*CLASSES, Class("dog", 17, (0, 0, 0))])
    with pytest.raises(DataError, match="'far' has the file id 65536"):
        LabelMap().encode(np.zeros((2, 2), np.uint8), [Class("far", 65536, (0, 0, 0))])


@pytest.mark.parametrize(
    ("kind", "predicted", "truth"),
    [(LabelMap(), [0, 0, 1], [0, 1, IGNORE]), (PanopticMap(), [0, 2, 1000], [1, 1000, -1])],
)
def test_errors_are_drawn_where_ground_truth_is_labelled_if_there_is_any(kind, predicted, truth):
    """Instances of the right class are no errors; without ground truth there is no map of errors."""
    errors, canvas = [], SimpleNamespace(segments=lambda *_: None, overlay=lambda *_: None)
    drawing = SimpleNamespace(prediction=canvas, truth=canvas, legend=lambda _: None)
    drawing.error_map = lambda *maps: errors.append([x.tolist() for x in maps])
    for labelled in (None, {"a": np.array([truth])}):
        kind.draw(drawing, "a", {"a": np.array([predicted])}, labelled, CLASSES)
    assert errors == [[[[False, True, False]], [[False, False, True]]]]
