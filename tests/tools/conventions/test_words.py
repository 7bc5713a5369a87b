"""Words, and names of modules and of what they define."""

from tests.tools.conventions.small_tree import ProblemsOf

API = "docs/api.md"
HEAD = "plugins/densevit_heads/fcn.py"


def test_words_are_the_standard_ones(problems_of: ProblemsOf) -> None:
    problems = problems_of("words.words_are_the_standard_ones")
    assert problems(API, "a net |", "a net for Pictures |") == [f"{API}:7: the word 'Pictures'"]
    assert problems(HEAD, '"""FCN."""', '"""FCN, learnt."""') == [f"{HEAD}:1: the word 'learnt'"]
    assert problems(HEAD, '"""FCN."""', '"""Reads one json an image."""') == [f"{HEAD}:1: the word 'json an image'"]
    assert problems(HEAD, '"""FCN."""', '"""Reads one json per image."""') == []


def test_modules_are_named_by_their_subject(problems_of: ProblemsOf) -> None:
    problems = problems_of("words.modules_are_named_by_their_subject")
    assert problems("densevit/training/run/utils.py", "", '"""Rest."""\n') == [
        "densevit/training/run/utils.py:1: a module called utils"
    ]
    assert problems("densevit/training/run/quiet.py", "", '"""Rest."""\n') == [
        "densevit/training/run/quiet.py:1: a module called quiet"
    ]


def test_public_names_say_what_they_are(problems_of: ProblemsOf) -> None:
    problems = problems_of("words.public_names_say_what_they_are")
    head = '"""FCN."""\n\n\nclass Fcn:\n    own: int = 0\n\n    def draw(self, found, boxes):\n        one = found\n'
    assert problems(HEAD, "", head) == [f"{HEAD}:5: the name own", f"{HEAD}:7: the name found"]
    private = '"""FCN."""\n\n\nclass _Fcn:\n    own: int = 0\n\n\ndef _draw(found):\n    return found\n'
    assert problems(HEAD, "", private) == []
