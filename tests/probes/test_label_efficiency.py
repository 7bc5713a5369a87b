"""Subsets of training images: nested, of the right size, and proportional to the classes."""

from collections import Counter
from itertools import pairwise

import pytest

from densevit.errors import ConfigError
from densevit_probes.label_efficiency import label_subset

SHARES = (0.001, 0.01, 0.1, 0.37, 1.0)


@pytest.mark.parametrize("classes", [None, [i % 7 for i in range(500)], [0] * 450 + [1] * 40 + [2] * 10])
def test_subsets_are_nested_and_proportional_to_the_classes(classes: list[int] | None) -> None:
    subsets = [label_subset(500, share, classes) for share in SHARES]
    assert [len(subset) for subset in subsets] == [1, 5, 50, 185, 500]
    for smaller, larger in pairwise(subsets):
        assert set(smaller) < set(larger) and larger == sorted(larger)
    if classes is not None:
        for share, subset in zip(SHARES, subsets, strict=True):
            drawn, total = Counter(classes[i] for i in subset), Counter(classes)
            assert all(abs(drawn[name] - share * total[name]) <= 2 for name in total), (share, drawn)


def test_a_seed_is_repeatable_and_others_differ() -> None:
    classes = [i % 3 for i in range(60)]
    assert label_subset(60, 0.1, classes, 1) == label_subset(60, 0.1, classes, 1) != label_subset(60, 0.1, classes, 2)
    assert label_subset(1, 0.01) == [0]
    starts = {label_subset(60, 0.01, classes, seed)[0] for seed in range(40)}
    assert len(starts) > 10 and {classes[i] for i in starts} == {0, 1, 2}


@pytest.mark.parametrize(("count", "share"), [(0, 0.1), (10, 0.0), (10, 1.5), (10, float("nan"))])
def test_invalid_shares_raise(count: int, share: float) -> None:
    with pytest.raises(ConfigError, match="share is .* expected"):
        label_subset(count, share)
