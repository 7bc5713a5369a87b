"""Surface normals by a linear map against least squares and angles in numpy, and the control `pixels`."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.testing import check_backbone
from densevit_probes.normals import NormalAngles, NormalMap, SurfaceNormals
from densevit_probes.pixels import Pixels


def image(seed):
    """A map of 3 x 4 cells of 8 pixels, with 5 channels, some cells without a normal."""
    torch.manual_seed(seed)
    normals = F.normalize(torch.randn(3, 3, 4), dim=0) * (torch.rand(3, 4) < 0.8)
    return NormalMap(3 + 2 * torch.randn(5, 3, 4), normals, 8, (20, 30))


def test_the_fit_is_least_squares_and_metrics_are_angles():
    """The ridge as rows of the least squares: the mean of |W x - n|^2 over patches plus ridge |W|^2, with the bias."""
    train, probe, angles, evaluator = [image(i) for i in range(9)], SurfaceNormals(ridge=0.1), [], NormalAngles(())
    probe.fit(train)
    x, n = (np.concatenate([one[i].flatten(1).T.double().numpy() for one in train]) for i in (0, 1))
    x, n = x[(n != 0).any(1)], n[(n != 0).any(1)]
    rows = np.insert((x - x.mean(0)) / x.std(0), 5, 1, axis=1)
    ridge = (0.1 * len(rows)) ** 0.5 * np.eye(6)
    weight = np.linalg.lstsq(np.vstack([rows, ridge]), np.vstack([n, np.zeros((6, 3))]), rcond=None)[0]
    for i in (9, 10):
        one, truth = image(i), F.normalize(torch.randn(3, 33, 47), dim=0)
        truth[:, :5] = 0
        evaluator.update([probe.predict(one, (33, 47))] * 2, [{"image_id": i, "normals": truth}, {"image_id": 0}])
        cells = np.insert((one.features.flatten(1).T.numpy() - x.mean(0)) / x.std(0), 5, 1, axis=1) @ weight
        pixels = F.interpolate(torch.tensor(cells.T.reshape(1, 3, 3, 4)), (24, 32), mode="bilinear")[..., :20, :30]
        predicted = F.interpolate(pixels, (33, 47), mode="bilinear")[0].numpy()
        cosine = (predicted * truth.numpy()).sum(0) / np.linalg.norm(predicted, axis=0)
        angles.append(np.degrees(np.arccos(cosine[5:])))
    shares = {f"within_{int(limit)}": np.mean(np.array(angles) < limit) for limit in (11.25, 22.5, 30)}
    metrics = evaluator.metrics()
    assert metrics.pop("median") == pytest.approx(np.median(angles), abs=0.1)  # of bins of 0.1 degrees
    assert metrics == pytest.approx({"mean": np.mean(angles), **shares}, abs=1e-3)


def test_normals_of_cells_are_means_of_the_known_ones():
    """Of an image of 8 x 12 pixels on a canvas of 8 x 16: two cells of 8 pixels, one of which is half padding."""
    normals = torch.zeros(3, 8, 12)
    normals[0, :, :4], normals[2, :, 4:8], normals[1, :2, 8:] = 1, 1, -1
    batch = {"images": torch.zeros(2, 3, 8, 16), "targets": [{"size": (8, 12), "normals": normals}, {"size": (8, 16)}]}
    found, without = SurfaceNormals().features(lambda _: [torch.zeros(2, 5, 1, 2)], batch, 8)
    torch.testing.assert_close(found.normals[:, 0].T, torch.tensor([[0.5**0.5, 0, 0.5**0.5], [0, -1, 0]]))
    assert (found.size, found.stride) == ((8, 12), 8) and not without.normals.any()
    with pytest.raises(ConfigError, match="^no training image has normals. Fix: "):
        SurfaceNormals().fit([without])


@pytest.mark.integration
def test_pixels_are_mean_colours_and_places_and_meet_the_interface():
    images = torch.randn(2, 3, 40, 56)
    [found] = Pixels(patch_size=16)(images)
    torch.testing.assert_close(found[1, :3, 1, 2], images[1, :, 16:32, 32:48].mean((1, 2)))
    torch.testing.assert_close(found[0, :3, 2, 3], images[0, :, 32:, 48:].sum((1, 2)) / 256)  # with padding of 0
    torch.testing.assert_close(found[0, 3:, 1, 3], torch.tensor([1.0, 0.0]))
    check_backbone(Pixels, skip=("parameter_gradients", "trains"))  # it has no parameters
