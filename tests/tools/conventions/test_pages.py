"""Lines, links, images and code blocks of pages."""

from tests.tools.conventions.small_tree import ProblemsOf

API = "docs/api.md"
INDEX = "docs/tutorials/index.md"
LONG = "word " * 25


def test_lines_are_wrapped(problems_of: ProblemsOf) -> None:
    problems = problems_of("pages.lines_are_wrapped")
    assert problems(API, "# Names", f"# Names\n\n{LONG}") == [f"{API}:3: the line has 125 characters"]
    assert problems(API, "# Names", f"# Names\n\n    {LONG}\n| {LONG}|\n![{LONG}](plot.svg)\n{'x' * 130}") == []
    assert problems(API, "import densevit", f"import densevit  # {LONG}") == []


def test_links_resolve(problems_of: ProblemsOf) -> None:
    problems = problems_of("pages.links_resolve")
    assert problems("README.md", "#the-names", "#names-of") == ["README.md:3: docs/api.md has no heading #names-of"]
    assert problems("README.md", "#run-it", "#run") == ["README.md:3: README.md has no heading #run"]
    assert problems("CONTRIBUTING.md", "README", "READ") == ["CONTRIBUTING.md:3: the link READ.md leads to no file"]
    assert problems("CONTRIBUTING.md", "(README.md)", "") == ["CONTRIBUTING.md:1: the page has no links"]
    assert problems(INDEX, "one.ipynb", "../api.md#run-it") == [f"{INDEX}:3: docs/api.md has no heading #run-it"]
    assert problems(INDEX, "one.ipynb", "../api.md#the-names") == []
    assert problems(INDEX, "one.ipynb", "../reference/all.md#densevit.Net") == []


def test_images_are_small(problems_of: ProblemsOf) -> None:
    problems = problems_of("pages.images_are_small")
    assert problems("docs/overview.md", "plot.svg", "no.svg") == ["docs/overview.md:10: there is no image no.svg"]
    assert problems("docs/plot.svg", "", "x" * 400_000) == ["docs/plot.svg:1: the image has 400,000 bytes"]
    assert problems("docs/plot.svg", "", None) == [
        "docs/overview.md:10: there is no image plot.svg",
        "docs:1: there are no images",
    ]


def test_code_blocks_have_a_language(problems_of: ProblemsOf) -> None:
    problems = problems_of("pages.code_blocks_have_a_language")
    assert problems(API, "```bash", "```") == [f"{API}:16: the block has no language"]
    assert problems(API, "```bash", "```sh") == [f"{API}:16: the language is sh"]
    assert problems(API, "fcn\n```", "fcn\n") == [f"{API}:16: the block is not closed"]


def test_commands_are_in_blocks_that_run(problems_of: ProblemsOf) -> None:
    problems = problems_of("pages.commands_are_in_blocks_that_run")
    assert problems(API, "```bash", "```text") == [f"{API}:16: a command in a block of text"]
    assert problems(API, "```bash\ndensevit train fcn", "```text\ndensevit train [fcn]") == []
    assert problems(API, "```bash\ndensevit", "```text\ntorchrun [fcn]") == [f"{API}:16: a command in a block of text"]
