"""Intervals by the bootstrap of the probes' evaluators, by the tests of the other evaluators."""

import pytest
import torch

from densevit_probes.correspondence import MatchRecall
from densevit_probes.normals import NormalAngles
from tests.evaluation import test_bootstrap

test_resamples = test_bootstrap.test_a_resample_equals_an_evaluation_of_the_resampled_images
test_processes = test_bootstrap.test_intervals_do_not_depend_on_processes_and_leave_the_metrics_unchanged


def matches(draw):
    return {"match_errors": torch.from_numpy(draw.uniform(0, 30, 8))}, {}


def normals(draw):
    prediction, truth = torch.nn.functional.normalize(torch.from_numpy(draw.normal(size=(2, 3, 8, 8))).float(), dim=1)
    return {"normals": prediction}, {"normals": truth}


KINDS = {"correspondence": (lambda: MatchRecall(()), matches), "normals": (lambda: NormalAngles(()), normals)}


@pytest.fixture(params=KINDS)
def kind(request):
    return test_bootstrap.evaluations(*KINDS[request.param])
