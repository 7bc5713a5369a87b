"""The public names are those listed in docs/api.md, and each one exists and is documented."""

import re

import pytest

import densevit
from densevit import registry

MOVED = {"doctor", "benchmarking", "inspection", "scaffold"}  # docs/versions.md names them as they were


def test_docs_list_exactly_the_public_names(project):
    page = (project / "docs" / "api.md").read_text()
    listed = re.findall(r"^\| `densevit\.(\w+)` \|", page, flags=re.MULTILINE)
    assert listed == densevit.__all__


def test_names_used_in_docs_are_public(project):
    modules = {path.stem for path in (project / "densevit").iterdir()}
    for page in [*(project / "docs").glob("*.md"), project / "README.md"]:
        used = set(re.findall(r"\bdensevit\.([A-Za-z_]+)", page.read_text()))
        assert used <= {*densevit.__all__, *modules, *registry.GROUPS, *MOVED}, page.name


@pytest.mark.parametrize("name", densevit.__all__)
def test_public_names_exist_and_have_docstrings(name):
    assert getattr(densevit, name).__doc__
    assert name in dir(densevit)


def test_all_is_sorted_and_unknown_names_raise_attribute_error():
    assert densevit.__all__ == sorted(densevit.__all__)
    with pytest.raises(AttributeError, match="module 'densevit' has no attribute 'Backbones'"):
        _ = densevit.Backbones
