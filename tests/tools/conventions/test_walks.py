"""What docs/architecture.md says of the code: rooms, names, and the order of steps."""

from tests.tools.conventions.small_tree import ProblemsOf

PAGE = "docs/architecture.md"
FIT, STEP = "densevit/training/run/fit.py", "densevit/training/loop/step.py"


def test_rooms_stand_in_their_rows(problems_of: ProblemsOf) -> None:
    problems = problems_of("walks.rooms_stand_in_their_rows")
    training, data = "| `training` | trains |\n", "| `data` | loads |\n"
    assert [problem.partition(": ")[2] for problem in problems(PAGE, training + data, data + training)] == [
        "the row has data",
        "the row has training",
    ]
    assert problems(PAGE, data, "")[1:] == [f"{PAGE}:1: 2 rows of packages"]
    assert problems("densevit/layers.py", "", "") == [f"{PAGE}:1: 3 rows of packages"]


def test_named_places_exist(problems_of: ProblemsOf) -> None:
    problems = problems_of("walks.named_places_exist")
    for text, found in {
        "`densevit/training/loop`, `densevit.training.run.Net`, `TrainingStep.training_step`": [],
        "`Gone` in `no.py`": ["no class or method is named Gone", "Gone is not defined in no.py"],
        "`TrainingStep.gone`": ["no class or method is named TrainingStep.gone"],
        "`densevit/visualization/`": ["there is no densevit/visualization/"],
        "`densevit.training.gone`": ["there is no densevit.training.gone"],
    }.items():
        said = problems(PAGE, "# Architecture\n", f"# Architecture\n\n{text}\n")
        assert [one.partition(": ")[2] for one in said] == found


def test_walks_are_in_the_order_of_the_code(problems_of: ProblemsOf) -> None:
    problems = problems_of("walks.walks_are_in_the_order_of_the_code")
    row = "| part {0} | `part_{0}` in `densevit/training/run/fit.py` |\n"
    first, second = row.format(0), row.format(3) + row.format(4)
    found = [one.partition(": ")[2] for one in problems(PAGE, second, row.format(4) + row.format(3))]
    assert found == ["train calls part_3 before part_4"]
    assert problems(FIT, "    part_3()\n    part_4()\n", "    part_4()\n    part_3()\n")  # the code, and not the page
    found = [one.partition(": ")[2] for one in problems(PAGE, first, "")]
    assert found == ["7 steps follow from one"]


def test_a_step_is_in_the_order_of_the_code(problems_of: ProblemsOf) -> None:
    problems = problems_of("walks.a_step_is_in_the_order_of_the_code")
    (found,) = problems(STEP, "1. `training_step`: losses", "1. losses")
    assert found.endswith("the hooks are TrainingStep.training_step, TrainingStep.optimizer_step")
    (found,) = problems(FIT, "[Waiting(), saving, *others]", "[saving, Waiting(), *others]")
    assert found.endswith("the callbacks are Waiting, Saving")
