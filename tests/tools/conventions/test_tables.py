"""Tables of pages, held to plugins, public names, layouts and config keys."""

from tests.tools.conventions.small_tree import ProblemsOf

API = "docs/api.md"
WEIGHTS = "docs/weights.md"
CONFIG = "docs/config.md"
TIMM = "docs/timm.md"
SCHEMA = "densevit/config/schema.py"


def test_api_page_lists_the_public_names(problems_of: ProblemsOf) -> None:
    problems = problems_of("tables.api_page_lists_the_public_names")
    assert problems(API, "`densevit.fit` |", "`densevit.run` |") == [
        f"{API}:8: densevit.run is no public name",
        f"{API}:1: densevit.fit has no row",
    ]
    assert problems(
        API,
        "| `densevit.Net` | a net |\n| `densevit.fit` | trains |",
        "| `densevit.fit` | trains |\n| `densevit.Net` | a net |",
    ) == [f"{API}:8: densevit.Net is below densevit.fit"]


def test_reference_has_the_public_names(problems_of: ProblemsOf) -> None:
    problems = problems_of("tables.reference_has_the_public_names")
    assert problems("docs/reference/all.md", "densevit.fit", "densevit.Net") == [
        "docs/reference/all.md:5: densevit.Net is in the reference twice",
        "docs/reference:1: densevit.fit is on no page",
    ]
    assert problems("docs/reference/all.md", "densevit.fit", "densevit.fit\n\n::: densevit.x") == [
        "docs/reference/all.md:7: densevit.x is no public name"
    ]


def test_reference_has_the_protocols(problems_of: ProblemsOf) -> None:
    problems = problems_of("tables.reference_has_the_protocols")
    file = "densevit/training/callbacks/waiting.py"
    assert problems(file, "Waiting", "SupportsFit") == [
        f"{file}:4: densevit.training.callbacks.waiting.SupportsFit is not in docs/reference/protocols.md"
    ]


def test_names_on_pages_are_public(problems_of: ProblemsOf) -> None:
    problems = problems_of("tables.names_on_pages_are_public")
    assert problems(API, "densevit.fit()", "densevit.fits()") == [
        f"{API}:13: densevit.fits is no public name or module"
    ]
    assert problems(API, "densevit.fit()", "densevit.training densevit.heads") == []


def test_overview_has_the_plugins(problems_of: ProblemsOf) -> None:
    problems = problems_of("tables.overview_has_the_plugins")
    assert problems("docs/overview.md", "`fcn`, ", "") == ["docs/overview.md:1: 'fcn' of heads is missing"]
    assert problems("docs/overview.md", "timm.md", "api.md") == ["docs/overview.md:1: 'timm' of backbones is missing"]


def test_papers_page_has_the_plugins(problems_of: ProblemsOf) -> None:
    problems = problems_of("tables.papers_page_has_the_plugins")
    assert problems("docs/papers.md", "`cvt` ", "") == ["docs/papers.md:1: 'cvt' of heads is missing"]
    assert problems("docs/papers.md", "cvt.py", "cvd.py") == [
        "docs/papers.md:5: there is no file plugins/densevit_papers/cvd.py"
    ]


def test_weights_page_lists_the_layouts(problems_of: ProblemsOf) -> None:
    problems = problems_of("tables.weights_page_lists_the_layouts")
    assert problems(WEIGHTS, "`mae`", "`made`") == [
        f"{WEIGHTS}:3: the layout 'mae' has no row",
        f"{WEIGHTS}:7: 'made' is no layout",
    ]
    assert problems("setup.cfg", "    mae =", "    mad =") == [
        "setup.cfg:32: mad cannot be loaded: Unknown layout 'mad'",
        f"{WEIGHTS}:7: 'mae' is no layout",
    ]


def test_config_page_has_the_keys(problems_of: ProblemsOf) -> None:
    problems = problems_of("tables.config_page_has_the_keys")
    assert problems(CONFIG, "`seed`", "seed") == [f"{CONFIG}:1: the key 'seed' of Config is missing"]
    assert problems(SCHEMA, '\n    """A seed."""', "") == [f"{SCHEMA}:15: Config.seed has no docstring"]
    assert problems(SCHEMA, "class Config", "class Conf") == ["densevit/config:1: there is no class Config"]


def test_foundation_table_has_the_backbones(problems_of: ProblemsOf) -> None:
    problems = problems_of("tables.foundation_table_has_the_backbones")
    assert problems(TIMM, "DINOv2", "DINO") == [
        f"{TIMM}:3: the rows are not those of FOUNDATION in tools/foundation_table.py"
    ]
    assert problems(TIMM, "yes | pyramid", "yes | no change") == [f"{TIMM}:7: DINOv2 does not work with every head"]
    assert problems(TIMM, "yes | yes | no", "yes | yes | yes") == [
        f"{TIMM}:8: Hiera of SAM 2 does not work with every head"
    ]
