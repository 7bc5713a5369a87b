"""The public names are those that docs/api.md lists, and each one is there and documented."""

import re

import pytest

import densevit


def test_the_docs_list_the_public_names_and_no_others(project):
    page = (project / "docs" / "api.md").read_text()
    listed = re.findall(r"^\| `densevit\.(\w+)` \|", page, flags=re.MULTILINE)
    assert listed == densevit.__all__


def test_every_name_that_a_page_uses_is_public(project):
    modules = {path.stem for path in (project / "densevit").iterdir()}
    groups = {"backbones", "necks", "heads", "datasets", "evaluators"}
    for page in [*(project / "docs").glob("*.md"), project / "README.md"]:
        used = set(re.findall(r"\bdensevit\.([A-Za-z_]+)", page.read_text()))
        assert used <= {*densevit.__all__, *modules, *groups}, page.name


@pytest.mark.parametrize("name", densevit.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name):
    assert getattr(densevit, name).__doc__
    assert name in dir(densevit)


def test_all_is_sorted_and_a_wrong_name_is_an_attribute_error():
    assert densevit.__all__ == sorted(densevit.__all__)
    with pytest.raises(AttributeError, match="module 'densevit' has no attribute 'Backbones'"):
        _ = densevit.Backbones
