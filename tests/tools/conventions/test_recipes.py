"""First lines of configs."""

from tests.tools.conventions.small_tree import ProblemsOf


def test_untrained_recipes_state_the_published_score(problems_of: ProblemsOf) -> None:
    problems = problems_of("recipes.untrained_recipes_state_the_published_score")
    assert problems("configs/coco/fcn.yaml", "Published", "Printed") == [
        "configs/coco/fcn.yaml:1: the first lines have no published score"
    ]
    assert problems("configs/coco/fcn.yaml", "AP 0.4", "AP") == [
        "configs/coco/fcn.yaml:1: the first lines have no published score"
    ]
    assert problems("configs/coco/fcn.yaml", "AP 0.6", "as below") == [
        "configs/coco/fcn.yaml:1: the line of backbone.depth=101 has no published score"
    ]


def test_headers_have_the_command(problems_of: ProblemsOf) -> None:
    problems = problems_of("recipes.headers_have_the_command")
    assert problems("configs/coco/fcn.yaml", "train configs/coco/fcn", "train configs/coco/fcm") == [
        "configs/coco/fcn.yaml:1: the first lines do not have configs/coco/fcn.yaml"
    ]
    assert problems("configs/coco/fcn_large.yaml", "As fcn.yaml", "Large") == [
        "configs/coco/fcn_large.yaml:1: the first lines do not have fcn.yaml"
    ]
    assert problems("configs/data/coco.yaml", "data/coco.yaml", "data/cocoa.yaml") == [
        "configs/data/coco.yaml:1: the first lines do not have configs/data/coco.yaml"
    ]
    assert problems("configs/start/fcn.yaml", "train start/fcn", "train fcn") == [
        "configs/start/fcn.yaml:1: the first lines do not have densevit train start/fcn"
    ]
