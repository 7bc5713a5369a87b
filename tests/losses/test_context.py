"""Normalisers of a step of one process, by hand; see also test_distributed.py."""

import pytest
import torch

from densevit.losses.context import LossContext, loss_normalizers, step_context


def test_counts_are_means_over_the_batches_of_the_step():
    """Of two heads; in the second step, which ends an epoch, one of two batches is missing."""
    counts = {"a": [{"objects": 1, "weights": 4}, {"objects": 3, "weights": 5}], "b": [{"images": 2}, {"images": 0}]}
    context = step_context(counts, 2, 7, torch.device("cpu"))
    assert (context.step, context.batches, context.processes) == (7, 2, 1)
    assert context.counts == {"a/objects": 2, "a/weights": 4.5, "b/images": 1}
    last = step_context({head: each[:1] for head, each in counts.items()}, 2, 8, torch.device("cpu")).for_head("a")
    assert last.counts == {"objects": 0.5, "weights": 2}
    assert [x.tolist() for x in last.mean_counts(weights=torch.ones(3))] == [[2, 2, 2]]  # in place of this batch's
    assert [float(x) for x in last.mean_counts(weights=torch.tensor(9.0), boxes=torch.tensor(3.0))] == [9, 3]
    assert (last.min_normalizer(), LossContext(processes=4).min_normalizer(2.0)) == (0.5, 0.5)
    assert step_context({"a": [{}]}, 1, 0, torch.device("cpu")) == LossContext()


def test_queries_beyond_the_objects_have_no_object():
    """Of 3 and 0 objects for 2 queries each: two are matched, two have the class "no object"."""
    assert loss_normalizers([3, 0], 2, 0.25) == {"objects": 3, "objects_weights": pytest.approx(2 + 2 * 0.25)}
