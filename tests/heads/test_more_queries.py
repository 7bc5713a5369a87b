"""AP of a trained two-stage model with more queries than its weights have."""

import pytest

from tests.heads.more_queries import QUERIES, scores


@pytest.mark.slow
def test_more_queries_keep_the_score_of_a_two_stage_model_and_it_trains_on(tmp_path):
    result = scores("dab_detr, two-stage", tmp_path, (40,), (40,))
    assert result[f"{QUERIES}"] > 0.2
    assert result["40"] > result[f"{QUERIES}"] - 0.01
    assert result["40, trained"] > result[f"{QUERIES}"]
