"""Probes of patches against brute force: k-NN, logistic regression and retrieval, and the patches that they read."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from densevit import registry
from densevit.errors import ConfigError, DensevitError
from densevit.interfaces import Class
from densevit_probes import PatchKnn, PatchLogistic, PatchRetrieval
from densevit_probes.patches import Patches

K, C, SIDE = 3, 6, 4
CLASSES = [Class(str(i), i + 1, (0, 0, 0)) for i in range(K)]
UPSAMPLED = {"mode": "bilinear", "align_corners": False}


def images(count, seed, noise=1.0, size=(10, 15)):
    """Images of 3 x 4 patches of 4 x 4 pixels, each patch with one or two classes, whose means the features have."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(K, C, generator=torch.Generator().manual_seed(9))
    result = []
    for _ in range(count):
        labels = torch.randint(K, (12, 1), generator=generator, dtype=torch.uint8).repeat(1, SIDE**2)
        labels[:4, :6] = torch.randint(K, (4, 1), generator=generator, dtype=torch.uint8)
        labels[0], labels[1, 10:] = 255, 255
        features = means[labels.long().clamp(max=K - 1)].mean(1)
        result.append(Patches(features + noise * torch.randn(12, C, generator=generator), labels, (3, 4), size))
    return result


def selected_images(train, seed=0):
    """CAPI's tenth, and the rest."""
    order = np.random.default_rng(seed).permutation(len(train))
    return [train[i] for i in order[: len(train) // 10]], [train[i] for i in order[len(train) // 10 :]]


def arrays(images):
    """Features and labels of the patches whose most frequent label is a class."""
    features, labels = (np.concatenate([x[i].numpy() for x in images]) for i in (0, 1))
    kept = np.array([np.bincount(row, minlength=256).argmax() != 255 for row in labels])
    return features[kept].astype(float), labels[kept]


def miou(predictions, images):
    """Over the pixels of the images."""
    counts = np.zeros((K, 256), int)
    for prediction, image in zip(predictions, images, strict=True):
        pixels = [pixel_map(x, image.size) for x in (image.labels.numpy(), prediction)]
        np.add.at(counts, (pixels[1].ravel(), pixels[0].ravel()), 1)
    counts = counts[:, :K]
    hits = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hits
    return (hits[union > 0] / union[union > 0]).mean()


def pixel_map(labels, size):
    """(12, 16) -> (*size)."""
    return labels.reshape(3, 4, SIDE, SIDE).transpose(0, 2, 1, 3).reshape(12, 16)[: size[0], : size[1]]


def knn(features, labels, queries, k, distance):
    """The most frequent class of each pixel among the k nearest patches, (N, SIDE^2)."""
    if distance == "cosine":
        features, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, queries))
    distances = np.linalg.norm(queries[:, None] - features, axis=2)  # of unit vectors, in the order of the cosine
    neighbours = labels[distances.argsort(1, kind="stable")[:, :k]]
    return np.array([[np.bincount(x, minlength=256)[:K].argmax() for x in one.T] for one in neighbours])


def test_knn_is_brute_force_with_the_options_that_a_tenth_selects():
    train, val = images(30, 0), images(2, 1, size=(12, 13))
    chosen = {}
    held_out, fitted = selected_images(train)
    features, labels = arrays(fitted)
    mean, std = features.mean(0), features.std(0)
    for k in (1, 5, 20):
        for distance in ("cosine", "l2"):
            found = [knn((features - mean) / std, labels, (x[0].numpy() - mean) / std, k, distance) for x in held_out]
            chosen[k, distance] = miou(found, held_out)
    probe = PatchKnn(CLASSES, k=(1, 5, 20))
    probe.fit(train)
    assert len(set(chosen.values())) > 3 and probe.choice == max(chosen, key=chosen.get)
    features, labels = arrays(train)
    for image in val:
        expected = knn((features - mean) / std, labels, (image[0].numpy() - mean) / std, *probe.choice)
        assert (probe.predict(image, image.size).numpy() == pixel_map(expected, image.size)).all()


def test_knn_is_scikit_learns():
    neighbors = pytest.importorskip("sklearn.neighbors")
    """Of patches whose pixels all have labels: scikit-learn would vote for 255."""
    train = [x._replace(labels=x.labels.clamp(max=K - 1)) for x in images(30, 0)]
    [image] = images(1, 1)
    features, labels = arrays(train)
    for distance, metric in (("cosine", "cosine"), ("l2", "euclidean")):
        probe = PatchKnn(CLASSES, k=(10,), distances=(distance,))
        probe.fit(train)
        x, queries = ((x - probe._mean.numpy()) / probe._std.numpy() for x in (features, image[0].numpy()))
        expected = neighbors.KNeighborsClassifier(10, metric=metric).fit(x, labels).predict(queries)
        assert (probe.classify(torch.tensor(queries).float()).numpy() == expected).all()


def test_logistic_is_at_the_minimum_and_selects_by_a_tenth():
    """The gradient of the objective by hand is 0, and no other choice has a higher mean IoU on the tenth."""
    train = images(30, 0, noise=3.0)
    values = (1e-6, 0.01, 1.0)
    probe = PatchLogistic(CLASSES, values)
    probe.fit(train)
    held_out, fitted = selected_images(train)
    features, labels = arrays(fitted)
    mean, std = features.mean(0), features.std(0)
    scores = {}
    for value in values:
        one = PatchLogistic(CLASSES, (value,))
        one.choice = value
        one.fit_patches(torch.tensor((features - mean) / std).float(), torch.tensor(labels))
        found = [one.classify(torch.tensor((x[0].numpy() - mean) / std).float()) for x in held_out]
        scores[value] = miou([x[:, None].repeat(1, SIDE**2).numpy() for x in found], held_out)
    assert len(set(scores.values())) > 1 and probe.choice == max(scores, key=scores.get)
    features, labels = arrays(train)
    x = (features - probe._mean.numpy()) / probe._std.numpy()
    modes = np.array([np.bincount(row).argmax() for row in labels])
    logits = x @ probe.weight.numpy().T.astype(float) + probe.bias.numpy()
    errors = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(K)[modes]
    gradient = errors.T @ x + probe.weight.numpy() / probe.choice
    assert np.abs(gradient).max() < 1e-3 * len(x) and np.abs(errors.sum(0)).max() < 1e-3 * len(x)


def test_logistic_is_scikit_learns():
    linear_model = pytest.importorskip("sklearn.linear_model")
    train = images(30, 0, noise=2.0)
    probe = PatchLogistic(CLASSES, (0.1,))
    probe.fit(train)
    features, labels = arrays(train)
    modes = [np.bincount(row).argmax() for row in labels]
    x = (features - probe._mean.numpy()) / probe._std.numpy()
    expected = linear_model.LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(x, modes)
    np.testing.assert_allclose(probe.weight, expected.coef_, atol=1e-3)
    np.testing.assert_allclose(probe.bias - probe.bias.mean(), expected.intercept_ - expected.intercept_.mean(), atol=1e-3)


@pytest.mark.parametrize("memory", [None, 60])
def test_retrieval_is_the_formula_of_hummingbird(memory):
    train, [image] = images(20, 0), images(1, 1)
    probe = PatchRetrieval(CLASSES, memory=memory)
    probe.fit(train)
    keys, values = [], []
    for features, labels, *_ in train:
        for key, row in zip(features.numpy(), labels.numpy(), strict=True):
            if (row != 255).any():
                keys.append(key / np.linalg.norm(key))
                values.append(np.bincount(row[row != 255], minlength=K) / (row != 255).sum())
    if memory is not None:  # 3 patches of each image, which are labelled
        place = {np.round(key, 5).tobytes(): value for key, value in zip(keys, values, strict=True)}
        keys = probe._keys.double().numpy()
        values = [place[np.round(key.astype(np.float32), 5).tobytes()] for key in keys]
        assert len(keys) == len({key.tobytes() for key in keys}) == memory
    shares = []
    for query in image.features.numpy():
        similarity = np.array(keys) @ (query / np.linalg.norm(query))
        best = np.argsort(-similarity)[:30]
        weights = np.exp(similarity[best] / 0.02)
        shares.append((weights[:, None] * np.array(values)[best]).sum(0) / weights.sum())
    np.testing.assert_allclose(probe.distributions(image.features), shares, atol=1e-4)
    maps = torch.tensor(np.array(shares).T.reshape(1, K, 3, 4)).float()
    pixels = F.interpolate(maps, (12, 16), **UPSAMPLED)[..., :10, :15]
    assert torch.equal(probe.predict(image, (10, 15)), pixels[0].argmax(0).to(torch.uint8))
    original = F.interpolate(pixels, (21, 31), **UPSAMPLED)
    assert torch.equal(probe.predict(image, (21, 31)), original[0].argmax(0).to(torch.uint8))


def test_the_memory_prefers_rare_classes():
    """One of 100 patches has class 1, and is drawn first where u < min(99 u_i), in 1 - 1/e of the images."""
    labels = torch.zeros(100, 1, dtype=torch.uint8)
    labels[7] = 1
    train = [Patches(torch.randn(100, C), labels, (10, 10), (10, 10))] * 400
    probe = PatchRetrieval(CLASSES, memory=400)
    probe.fit(train)
    assert probe._values[:, 1].mean().item() == pytest.approx(1 - 1 / np.e, abs=0.08)


def test_patches_of_padded_images_of_two_sizes():
    """Each pixel has its place; padding and images without labels have none."""
    sizes = [(8, 14), (6, 9)]
    semantic = [torch.randint(K, size, dtype=torch.uint8) for size in sizes]
    semantic[0][2, 3] = 255
    targets = [{"size": size, "semantic": x} for size, x in zip(sizes, semantic, strict=True)]
    batch = {"images": torch.zeros(3, 3, 8, 16), "targets": [*targets, {"size": (8, 16)}]}
    maps = torch.arange(3 * 2 * 8.0).view(3, 2, 2, 4)
    found = PatchKnn(CLASSES).features(lambda _: [torch.zeros(3, 1, 8, 16), maps], batch)
    for i, (h, w) in enumerate(sizes):
        for y, x in np.ndindex(8, 16):
            label = found[i].labels[y // 4 * 4 + x // 4, y % 4 * 4 + x % 4]
            assert label == (semantic[i][y, x] if y < h and x < w else 255)
            assert (found[i].features[y // 4 * 4 + x // 4] == maps[i, :, y // 4, x // 4]).all()
        assert torch.equal(found[i].to_pixels(found[i].labels), semantic[i])
    assert (found[2].labels == 255).all()


@pytest.mark.parametrize("grid", ["image", "input"])
def test_a_probe_of_its_own_training_images_is_right_everywhere(grid):
    """On the network's input, or on originals of twice the size; pixels of 255 and unlabelled images do not count."""
    train = images(12, 0)
    probe = PatchKnn(CLASSES, (1,), ("l2",), grid=grid)
    probe.fit(train)
    for i, image in enumerate(train):
        semantic = image.to_pixels(image.labels)
        semantic[:4, :4] = semantic[semantic == 255] = 255
        truth = {"image_id": i, "semantic": semantic.repeat_interleave(2, 0).repeat_interleave(2, 1)}
        probe.update([{"feature": image}] * 2, [truth, {"image_id": i + 100}])
    assert probe.compute()["mIoU"] == 1
    scale = 2 if grid == "image" else 1
    labelled = sum(int((image.to_pixels(image.labels) != 255).sum()) for image in train)
    assert probe.metrics.counts.sum() == scale**2 * labelled


@pytest.mark.parametrize("seed", range(3))
def test_one_labelled_image_of_many_suffices_and_none_is_an_error(seed):
    without = [x._replace(labels=torch.full_like(x.labels, 255)) for x in images(20, 0)]
    for name in ("patch_knn", "patch_logistic", "patch_retrieval"):
        probe = registry.load("evaluators", name)(CLASSES, seed=seed)
        probe.fit([*without[:-1], images(1, 0)[0]])
        assert (probe.predict(without[0], (10, 15)) < K).all()
        with pytest.raises(ConfigError, match="^no training image has labels. Fix: label some images"):
            probe.fit(without)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("patch_knn", {"k": ()}, r"k is \[\]; numbers of at least 1"),
        ("patch_knn", {"distances": ("l1",)}, r"distances is \['l1'\]; cosine and l2"),
        ("patch_knn", {"grid": "pixels"}, "grid"),
        ("patch_logistic", {"inverse_regularization": (0.0,)}, "above 0 and at least 1"),
        ("patch_logistic", {"max_iterations": 0}, "max_iterations 0"),
        ("patch_retrieval", {"k": 0}, "k is 0, temperature 0.02 and memory None"),
        ("patch_retrieval", {"temperature": 0.0}, "temperature 0"),
        ("patch_retrieval", {"memory": 0}, "memory 0"),
        ("view_correspondence", {"jitter": 0.25}, "jitter 0.25; at least 1, at least 1, and between 0 and 0.25"),
        ("view_correspondence", {"matches": 0}, "matches is 0"),
        ("surface_normals", {"ridge": 0.0}, "ridge is 0; above 0"),
        ("pixels", {"patch_size": 0}, "patch_size is 0; it must be at least 1"),
    ],
)
def test_wrong_options_are_errors_of_one_line(name, options, message):
    with pytest.raises(DensevitError, match=message) as error:
        if name == "pixels":
            registry.create("backbones", name, options=options, where=name)
        registry.create("evaluators", name, CLASSES, options=options, where=name)
    assert "\n" not in str(error.value)
