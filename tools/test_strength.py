"""Measures what the tests protect: coverage by room, mutants and undone fixes that a test finds.

    python -m tools.test_strength coverage --out DIR    runs both sets, and prints the coverage by room
    python -m tools.test_strength mutants --out DIR     120 mutants of the library, each against 30 tests
    python -m tools.test_strength fixes --out DIR       40 commits that can be undone, against 30 tests

Changes are drawn from a fixed seed, whatever the tests are, and made in a worktree of HEAD in DIR; a row for each is
appended to a file in DIR, and an interrupted run goes on. A change is tried with the tests that run its lines: those of
the commit's files first, then those that run few lines. Tests of a mutant have a minute, those of a fix five. With
`--before DIR`, the test that found a change in an earlier measurement comes first.
"""

import argparse
import ast
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

SEED, TESTS, LARGEST_FIX = 0, 30, 40  # tests per change; changed lines of the library
COUNTS, SECONDS = {"mutants": 120, "fixes": 40}, {"mutants": 60, "fixes": 300}
SOURCES = ("densevit", "plugins")
PAIRS = ((ast.Lt, ast.GtE), (ast.Gt, ast.LtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn))
NEGATED: dict[type[ast.cmpop], Any] = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}


def measure_coverage(out: Path) -> None:
    """Runs both sets with the tests as contexts. Prints the shares of statements and branches that a test runs."""
    options = [f"--cov={source}" for source in SOURCES] + ["--cov-branch", "--cov-context=test", "--cov-report="]
    environment = {**os.environ, "COVERAGE_FILE": str(out.resolve() / "coverage")}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "--dist=worksteal", *options]
    subprocess.run(command, env=environment, check=False)
    report = subprocess.check_output([sys.executable, "-m", "coverage", "json", "-qo-"], env=environment)
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for path, file in json.loads(report)["files"].items():
        room = "/".join(Path(path).parent.parts[:2])  # densevit/data/io/x.py is in densevit/data
        totals[room].update({key: value for key, value in file["summary"].items() if isinstance(value, int)})
    print("| room | statements | run | branches run |\n|---|---:|---:|---:|")
    for room, of in sorted(totals.items()):
        run, branches = of["covered_lines"] / of["num_statements"], of["covered_branches"] / max(of["num_branches"], 1)
        print(f"| {room} | {of['num_statements']:,} | {run:.1%} | {branches:.1%} |")


def tests_by_line(out: Path) -> tuple[dict[str, dict[int, set[str]]], Counter[str]]:
    """The tests that run each line of each file, and the number of lines that each test runs."""
    from coverage import CoverageData

    data = CoverageData(basename=str(out / "coverage"))
    data.read()
    found = {
        path.removeprefix(f"{Path.cwd()}/"): {
            line: {context.rpartition("|")[0] for context in contexts if context}
            for line, contexts in data.contexts_by_lineno(path).items()
        }
        for path in data.measured_files()
    }
    return found, Counter(test for lines in found.values() for tests in lines.values() for test in tests)


def mutations(tree: ast.AST) -> Iterator[tuple[str, Any, ast.AST]]:
    """Yields the kind of each mutation of a module, the node and its replacement; none inside of f-strings."""
    formatted = {part for text in ast.walk(tree) if isinstance(text, ast.JoinedStr) for part in ast.walk(text)}
    for node in (node for node in ast.walk(tree) if node not in formatted):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield "comparison", node, ast.Compare(node.left, [NEGATED[type(node.ops[0])]()], node.comparators)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield "constant", node, ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield "call", node, ast.Constant(None)
        elif isinstance(node, ast.If | ast.IfExp):
            yield "branch", node.test, ast.UnaryOp(ast.Not(), node.test)
        if isinstance(node, ast.Call) and node.keywords:
            yield "argument", node, ast.Call(node.func, node.args, node.keywords[:-1])
        elif isinstance(node, ast.Call) and len(node.args) > 1:
            yield "argument", node, ast.Call(node.func, node.args[:-1], node.keywords)


def mutated(source: str, node: Any, replacement: ast.AST) -> str:
    """The source with one node replaced; the rest stays as it is written."""
    code = source.encode()
    lines = code.splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    text = f"({ast.unparse(ast.fix_missing_locations(replacement))})"
    return (code[:start] + text.encode() + code[end:]).decode()


def mutants() -> Iterator[tuple[str, str, int, str]]:
    """Yields (kind, path, line, mutated source). A file is drawn by its statements, then a kind and a place."""
    rng = random.Random(SEED)
    trees = {str(path): ast.parse(path.read_text()) for room in SOURCES for path in sorted(Path(room).rglob("*.py"))}
    sizes = [sum(isinstance(node, ast.stmt) for node in ast.walk(tree)) for tree in trees.values()]
    while True:
        [path] = rng.choices(list(trees), sizes)
        if places := list(mutations(trees[path])):
            kind = rng.choice(sorted({kind for kind, *_ in places}))
            _, node, replacement = rng.choice([place for place in places if place[0] == kind])
            yield kind, path, node.lineno, mutated(Path(path).read_text(), node, replacement)


def first_failure(tree: Path, tests: list[str], seconds: int) -> str:
    """The test that fails first on a tree within the time limit; empty if none does."""
    command = [sys.executable, "-m", "pytest", "-qx", "-n0", "--dist=no", "-pno:cacheprovider", "-m", "", *tests]
    environment = {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'plugins'}"}
    try:
        run = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return ""
    failed = re.findall(r"(?m)^(?:FAILED|ERROR) (tests/.*?)(?: - .*)?$", run.stdout)
    return (failed or ["import"])[0] if run.returncode in (1, 2) else ""  # or a module cannot be imported


def fixes() -> Iterator[tuple[str, set[str]]]:
    """Yields commits in a drawn order that change tests and few lines of the library: hash, test files."""
    commits = subprocess.check_output(["git", "log", "--no-merges", "--format=%h"], text=True).split()
    for commit in sorted(commits, key=lambda commit: random.Random(f"{SEED} {commit}").random()):
        numbers = subprocess.check_output(["git", "show", "--numstat", "--format=", commit], text=True)
        lines = {path: int(a) + int(d) for a, d, path in re.findall(r"(?m)^(\d+)\t(\d+)\t(.+\.py)$", numbers)}
        tests = {path for path in lines if Path(path).match("tests/**/test_*.py")}
        if tests and 0 < sum(lines[path] for path in lines if path.startswith(SOURCES)) <= LARGEST_FIX:
            yield commit, tests


def changed_lines(tree: Path) -> Iterator[tuple[str, int]]:
    """Yields the file and number of each line of HEAD that differs in the tree, or stands before added lines."""
    diff = subprocess.check_output(["git", "diff", "HEAD", "-U0", "--no-renames", "--", *SOURCES], cwd=tree, text=True)
    for file in diff.split("diff --git a/")[1:]:
        for start, count in re.findall(r"(?m)^@@ -(\d+)(?:,(\d+))? ", file):
            yield from ((file.partition(" ")[0], int(start) + line) for line in range(int(count or 1) or 1))


def code(file: Path) -> str:
    """The syntax tree of a module without its docstrings."""
    tree = ast.dump(ast.parse(file.read_text())) if file.exists() else ""
    return re.sub(r"Expr\(value=Constant\(value=(['\"]).*?\1\)\)", "", tree)


def trials(what: str, tree: Path) -> Iterator[tuple[str, str, set[str]]]:
    """Yields mutants or undone fixes, each applied to the tree: the kind, where, and the test files of the commit."""
    if what == "mutants":
        for kind, path, line, source in mutants():
            (tree / path).write_text(source)
            yield kind, f"{path}:{line}", set()
            subprocess.run(["git", "checkout", "-q", path], cwd=tree, check=True)
    for commit, files in fixes():
        subprocess.run(["git", "revert", "--no-commit", commit], cwd=tree, capture_output=True)
        unmerged = subprocess.check_output(["git", "diff", "--name-only", "--diff-filter=U", "--", *SOURCES], cwd=tree)
        subprocess.run(["git", "checkout", "-q", "HEAD", ".", *(f":!{room}" for room in SOURCES)], cwd=tree)
        changed = {path for path, _ in changed_lines(tree) if path.endswith(".py")}
        if not unmerged and any(code(tree / path) != code(Path(path)) for path in changed):  # not docstrings alone
            yield "fix", commit, files
        subprocess.run(["git", "reset", "-q", "--hard"], cwd=tree, check=True)


def measure(what: str, out: Path, before: Path | None) -> None:
    """Runs the trials that have no row yet, and prints how many of each kind were found."""
    tree, file = (out / f"tree_{what}").resolve(), out / f"{what}.jsonl"
    file.touch()
    if not tree.exists():
        subprocess.run(["git", "worktree", "add", "--detach", str(tree)], check=True)
    done = [json.loads(row) for row in file.read_text().splitlines()]
    earlier = [json.loads(row) for row in (before / file.name).read_text().splitlines()] if before else []
    by_line, extent = tests_by_line(out)
    for number, (kind, where, files) in enumerate(islice(trials(what, tree), COUNTS[what])):
        if number >= len(done):
            changed = [(by_line.get(path, {}), line) for path, line in changed_lines(tree)]
            running = {test for tests, line in changed for test in tests.get(line, ())}
            running = running or {test for tests, _ in changed for line in tests for test in tests[line]}
            first = earlier[number]["found_by"] if earlier else ""
            order = {t: (t != first, t.partition("::")[0] not in files, extent[t], t) for t in running}
            tests = sorted(running, key=order.__getitem__)[:TESTS]
            found_by = first_failure(tree, tests, SECONDS[what]) if tests else ""
            done.append({"kind": kind, "where": where, "found_by": found_by, "tests": len(tests)})
            with file.open("a") as opened:
                opened.write(json.dumps(done[-1]) + "\n")
            print(done[-1], flush=True)
    subprocess.run(["git", "reset", "-q", "--hard"], cwd=tree, check=True)  # the last change
    finders = [row["found_by"] for row in done if row["found_by"] not in ("", "import")]
    assert not (failed := first_failure(tree, finders, 3600)), f"{failed} fails without a change"
    for kind in (*sorted({row["kind"] for row in done}), "all"):
        found = [bool(row["found_by"]) for row in done if kind in (row["kind"], "all")]
        print(f"| {kind} | {len(found)} | {sum(found) / len(found):.0%} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["coverage", "mutants", "fixes"])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--before", type=Path, metavar="DIR", help="an earlier --out")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    measure_coverage(args.out) if args.what == "coverage" else measure(args.what, args.out, args.before)
