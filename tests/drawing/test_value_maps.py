"""Depth in colours: pixel colours and the labels of colour bars."""

import cv2
import numpy as np

from densevit.drawing.value_maps import TOO_FAR, TOO_NEAR, UNKNOWN, value_map_panels

INFERNO = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
BRIGHT, DARK = tuple(INFERNO[255]), tuple(INFERNO[0])


def panels(prediction: dict, truth: np.ndarray | None = None, zoom: int = 1) -> dict[str, np.ndarray]:
    [(key, value)] = prediction.items()
    found = value_map_panels(value, truth, "m", key == "inverse_depth", zoom, 12)
    return {name: np.asarray(panel) for name, panel in found.items()}


def ramp(height: int = 60, width: int = 80) -> np.ndarray:
    """1 m at the left to 16 m at the right, in equal ratios."""
    return np.tile(16 ** np.linspace(0, 1, width), (height, 1)).astype(np.float32)


def test_near_is_bright_far_is_dark_unknown_is_grey():
    truth = ramp()
    truth[:30] = 0
    found = panels({"depth": ramp()}, truth)
    assert list(found) == ["truth", "prediction", "relative error"]
    for name in ("truth", "prediction"):
        assert tuple(found[name][50, 0]) == BRIGHT and tuple(found[name][50, 79]) == DARK
    assert (found["truth"][:30] == UNKNOWN).all() and (found["relative error"][:30] == UNKNOWN).all()
    assert tuple(found["prediction"][10, 0]) == BRIGHT
    steps = [np.flatnonzero((INFERNO[::-1] == color).all(1))[0] for color in found["prediction"][0]]
    assert np.abs(steps - np.linspace(0, 255, 80)).max() < 5  # equal ratios; the outermost per cent are clipped


def test_too_near_is_blue_and_too_far_is_red():
    truth = np.full((40, 60), 4.0, np.float32)
    prediction = truth.copy()
    prediction[:20], prediction[20:30] = 3.0, 5.0  # a quarter less, a quarter more
    errors = panels({"depth": prediction}, truth)["relative error"]
    assert (errors[:20] == TOO_NEAR).all() and (errors[20:30] == TOO_FAR).all()
    assert (errors[30:40] >= 254).all()


def test_relative_depth_is_aligned_to_ground_truth_if_available():
    truth = ramp()
    inverse = {"inverse_depth": 7 + 3 / truth}
    found = panels(inverse, truth)
    assert list(found) == ["truth", "prediction, aligned", "relative error"]
    aligned, known = (found[name][:60].astype(int) for name in ("prediction, aligned", "truth"))
    assert np.abs(aligned - known).max() <= 6
    alone = panels(inverse)
    assert list(alone) == ["relative inverse depth"]
    assert tuple(alone["relative inverse depth"][0, 0]) == BRIGHT
    assert tuple(alone["relative inverse depth"][0, 79]) == DARK
