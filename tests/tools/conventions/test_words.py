"""Words and names of files."""

from tests.tools.conventions.small_tree import ProblemsOf

API = "docs/api.md"
HEAD = "plugins/densevit_heads/fcn.py"


def test_words_are_the_standard_ones(problems_of: ProblemsOf) -> None:
    problems = problems_of("words.words_are_the_standard_ones")
    assert problems(API, "a net |", "a net for Pictures |") == [f"{API}:7: the word 'Pictures'"]
    assert problems(HEAD, '"""FCN."""', '"""FCN, learnt."""') == [f"{HEAD}:1: the word 'learnt'"]


def test_modules_are_named_by_their_subject(problems_of: ProblemsOf) -> None:
    problems = problems_of("words.modules_are_named_by_their_subject")
    assert problems("densevit/training/run/utils.py", "", '"""Rest."""\n') == [
        "densevit/training/run/utils.py:1: a module called utils"
    ]
