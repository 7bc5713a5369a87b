"""Probes of patches against brute force: k-NN, logistic regression and retrieval, and the patches that they read."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from densevit import registry
from densevit.errors import ConfigError, DensevitError
from densevit.evaluation.miou import SemanticSegmentation
from densevit.interfaces import Class
from densevit_probes.classification import PatchKnn, PatchLogistic
from densevit_probes.patches import Patches
from densevit_probes.retrieval import PatchRetrieval

K, SIDE = 3, 4
CLASSES = [Class(str(i), i + 1, (0, 0, 0)) for i in range(K)]


def images(count, seed, noise=1.0, size=(10, 15)):
    """Images of 3 x 4 patches of 4 x 4 pixels; 6 features, which are the means of the patch's classes and noise."""
    torch.manual_seed(seed)
    labels = torch.randint(K, (count, 12, 1), dtype=torch.uint8).repeat(1, 1, SIDE**2)
    labels[:, :4, :6] = torch.randint(K, (count, 4, 1), dtype=torch.uint8)
    means = torch.randn(K, 6, generator=torch.Generator().manual_seed(9))
    features = means[labels.long()].mean(2) + noise * torch.randn(count, 12, 6)
    labels[:, 0], labels[:, 1, 10:] = 255, 255
    return [Patches(x, y, (3, 4), size) for x, y in zip(features, labels, strict=True)]


def arrays(images):
    """Features and labels of the patches whose most frequent label is a class, which are all but each first."""
    return [np.concatenate([image[i][1:].numpy() for image in images]) for i in (0, 1)]


def brute_force_selection(train, choices, classify):
    """CAPI's: the mean IoU on a tenth of the images, by choice; and the mean and deviation of the other features.

    classify(features, labels, queries, *choice): labels of the queries' pixels, (N, SIDE^2).
    """
    order = np.random.default_rng(0).permutation(len(train))
    features, labels = arrays([train[i] for i in order[len(train) // 10 :]])
    mean, std, scores = features.mean(0), features.std(0), {}
    for choice in choices:
        metrics = SemanticSegmentation(CLASSES)
        for i in order[: len(train) // 10]:
            found = classify((features - mean) / std, labels, (train[i][0].numpy() - mean) / std, *choice)
            maps = [pixel_map(x, train[i].size) for x in (found, train[i].labels.numpy())]
            metrics.update([{"semantic": maps[0]}], [{"image_id": int(i), "semantic": maps[1]}])
        scores[choice] = metrics.metrics()["mIoU"]
    assert len(set(scores.values())) > 1
    return scores, mean, std


def pixel_map(labels, size):
    labels = labels.astype(np.uint8).reshape(3, 4, SIDE, SIDE).transpose(0, 2, 1, 3).reshape(12, 16)
    return torch.from_numpy(labels[: size[0], : size[1]].copy())


def knn(features, labels, queries, k, distance):
    if distance == "cosine":  # of unit vectors, the distance has the order of the cosine
        features, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, queries))
    neighbours = labels[np.linalg.norm(queries[:, None] - features, axis=2).argsort(1)[:, :k]]  # (N, k, SIDE^2)
    return np.apply_along_axis(lambda x: np.bincount(x, minlength=256)[:K].argmax(), 1, neighbours)


def test_knn_is_brute_force_with_the_options_that_a_tenth_selects():
    train, [image] = images(30, 0), images(1, 1, size=(12, 13))
    choices = [(k, distance) for k in (1, 5, 20) for distance in ("cosine", "l2")]
    scores, mean, std = brute_force_selection(train, choices, knn)
    probe = PatchKnn(CLASSES, k=(1, 5, 20))
    probe.fit(train)
    assert probe.choice == max(scores, key=scores.get)
    features, labels = arrays(train)
    expected = knn((features - mean) / std, labels, (image[0].numpy() - mean) / std, *probe.choice)
    assert torch.equal(probe.label_map(image, image.size), pixel_map(expected, image.size))


def logistic(features, labels, queries, c):
    probe = PatchLogistic(CLASSES)
    probe.choice = c
    probe.fit_patches(torch.tensor(features), torch.tensor(labels))
    return probe.classify(torch.tensor(queries)).numpy()[:, None].repeat(SIDE**2, 1)


def test_logistic_is_the_minimum_of_the_objective_with_the_option_that_a_tenth_selects():
    """The minimum of a convex objective, where its gradient by hand is 0."""
    train, values = images(30, 0, noise=3.0), (1e-6, 0.01, 1.0)
    scores, mean, std = brute_force_selection(train, [(c,) for c in values], logistic)
    probe = PatchLogistic(CLASSES, values)
    probe.fit(train)
    assert (probe.choice,) == max(scores, key=scores.get)
    features, labels = arrays(train)
    x, modes = (features - mean) / std, [np.bincount(row).argmax() for row in labels]
    odds = np.exp(x @ probe.weight.numpy().T + probe.bias.numpy())
    errors = odds / odds.sum(1, keepdims=True) - np.eye(K)[modes]
    assert np.abs(errors.T @ x + probe.weight.numpy() / probe.choice).max() < 1e-3 * len(x)
    assert np.abs(errors.sum(0)).max() < 1e-3 * len(x)


@pytest.mark.parametrize("memory", [None, 60])
def test_retrieval_is_the_formula_of_hummingbird(memory):
    """Shares of labels of each patch; softmax of similarities / 0.02 over the 30 best; bilinear; argmax."""
    train, [image] = images(20, 0), images(1, 1)
    probe = PatchRetrieval(CLASSES, memory=memory)
    probe.fit(train)
    keys, labels = (torch.from_numpy(x) for x in arrays(train))
    keys = F.normalize(keys, dim=1)
    if memory is not None:  # 3 patches of each image
        rows = (probe._keys @ keys.T).argmax(1)
        assert len(set(rows.tolist())) == 60 and (rows // 11).bincount().tolist() == [3] * 20
        keys, labels = keys[rows], labels[rows]
    values = torch.stack([(labels == i).sum(1) for i in range(K)], 1) / (labels != 255).sum(1, keepdim=True)
    similarity = (F.normalize(image[0], dim=1) @ keys.T / 0.02).double()
    weights = similarity.exp() * (similarity >= similarity.sort(1).values[:, -30:-29])
    shares = (weights / weights.sum(1, keepdim=True) @ values.double()).float()
    torch.testing.assert_close(probe.distributions(image[0]), shares, atol=1e-5, rtol=0)
    pixels = F.interpolate(shares.T.reshape(1, K, 3, 4), (12, 16), mode="bilinear")[..., :10, :15]
    assert torch.equal(probe.label_map(image, (10, 15)), pixels[0].argmax(0).byte())
    original = F.interpolate(pixels, (21, 31), mode="bilinear")
    assert torch.equal(probe.label_map(image, (21, 31)), original[0].argmax(0).byte())


def test_the_memory_prefers_rare_classes():
    """One of 100 patches has class 1, and is drawn first where u < min(99 u_i), in 1 - 1/e of the images."""
    labels = F.one_hot(torch.tensor([7]), 100).T.byte()
    probe = PatchRetrieval(CLASSES, memory=400)
    probe.fit([Patches(torch.randn(100, 6), labels, (10, 10), (10, 10))] * 400)
    assert probe._values[:, 1].mean().item() == pytest.approx(1 - 1 / np.e, abs=0.08)


def test_patches_of_padded_images_of_two_sizes():
    """Each pixel has its place; padding and images without labels have none."""
    sizes = [(8, 14), (6, 9)]
    targets = [{"size": size, "semantic": torch.randint(K, size, dtype=torch.uint8)} for size in sizes]
    batch, maps = (
        {"images": torch.zeros(3, 3, 8, 16), "targets": [*targets, {"size": (8, 16)}]},
        torch.randn(3, 5, 2, 4),
    )
    found = PatchKnn(CLASSES).features(lambda _: [torch.zeros(3, 1, 8, 16), maps], batch, 4)
    for i, (h, w) in enumerate(sizes):
        labels = F.pad(targets[i]["semantic"], (0, 16 - w, 0, 8 - h), value=255)
        for y, x in np.ndindex(8, 16):
            assert found[i].labels[y // 4 * 4 + x // 4, y % 4 * 4 + x % 4] == labels[y, x]
            assert torch.equal(found[i].features[y // 4 * 4 + x // 4], maps[i, :, y // 4, x // 4])
        assert torch.equal(found[i].to_pixels(found[i].labels), targets[i]["semantic"])
    assert (found[2].labels == 255).all()


@pytest.mark.parametrize(("grid", "scale"), [("image", 2), ("input", 1)])
def test_a_probe_of_its_own_training_images_is_right_everywhere(grid, scale):
    """On originals of twice the size or the network's input; pixels of 255 do not count."""
    train = images(12, 0)
    probe = PatchKnn(CLASSES, (1,), ("l2",), grid=grid)
    probe.fit(train)
    for image in train:
        original = image.to_pixels(image.labels).repeat_interleave(2, 0).repeat_interleave(2, 1)
        prediction, truth = probe.scored(image, {"original_size": (20, 30), "semantic": original})
        known = truth["semantic"] != 255
        assert torch.equal(prediction["semantic"][known], truth["semantic"][known])
        assert known.sum() == scale**2 * (10 * 15 - 16 - 6)


@pytest.mark.parametrize("name", ["patch_knn", "patch_logistic", "patch_retrieval"])
def test_one_labelled_image_of_many_suffices_and_none_is_an_error(name):
    without = [x._replace(labels=torch.full_like(x.labels, 255)) for x in images(20, 0)]
    for seed in range(3):
        probe = registry.load("probes", name)(CLASSES, seed=seed)
        probe.fit([*without[:-1], images(1, 0)[0]])
        assert (probe.label_map(without[0], (10, 15)) < K).all()
    with pytest.raises(ConfigError, match="^no training image has labels. Fix: label some images"):
        probe.fit(without)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("knn", {"k": 0}, "k is 0"),
        ("linear_probe", {"inverse_regularization": 0}, "inverse_regularization is 0"),
        ("patch_knn", {"k": ()}, r"k is \[\]; numbers of at least 1"),
        ("patch_knn", {"distances": ("l1",)}, r"distances is \['l1'\]; cosine and l2"),
        ("patch_knn", {"grid": "pixels"}, "grid"),
        ("patch_logistic", {"inverse_regularization": (0.0,)}, "above 0 and at least 1"),
        ("patch_retrieval", {"temperature": 0.0}, "k is 30, temperature 0 and memory None"),
        ("patch_retrieval", {"memory": 0}, "memory 0"),
        ("view_correspondence", {"jitter": 0.25}, "jitter 0.25; at least 1, at least 1, and between 0 and 0.25"),
        ("surface_normals", {"ridge": 0.0}, "ridge is 0; above 0"),
    ],
)
def test_wrong_options_are_errors_of_one_line(name, options, message):
    with pytest.raises(DensevitError, match=message) as error:
        registry.create("probes", name, CLASSES, options=options, where=name)
    assert "\n" not in str(error.value)
