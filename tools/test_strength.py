"""Measures what the tests protect: coverage by room, mutants and undone fixes that a test finds.

    python -m tools.test_strength coverage --out DIR    runs both sets, and prints the coverage by room
    python -m tools.test_strength mutants --out DIR     120 mutants, each against 30 tests that run its line
    python -m tools.test_strength fixes --out DIR       40 commits with tests, undone, against their tests

Changes are drawn from a fixed seed and made in a worktree of HEAD in DIR; a row for each is appended to a file in DIR,
and an interrupted run goes on. Tests that run few lines come first; those of a mutant have a minute, those of a fix
five. What they have not found by then is not found.
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

SEED, TESTS = 0, 30
COUNTS, SECONDS = {"mutants": 120, "fixes": 40}, {"mutants": 60, "fixes": 300}
SOURCES = ("densevit", "plugins")
LARGEST_FIX = 40  # changed lines of the library
PAIRS = ((ast.Lt, ast.GtE), (ast.Gt, ast.LtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn))
NEGATED: dict[type[ast.cmpop], Any] = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}


def room_of(path: str) -> str:
    """densevit/data/io/x.py -> densevit/data; a module of densevit itself is in the room densevit."""
    return "/".join(Path(path).parent.parts[:2])


def measure_coverage(out: Path) -> None:
    """Runs both sets with the tests as contexts. Prints the shares of statements and branches that a test runs."""
    options = [f"--cov={source}" for source in SOURCES] + ["--cov-branch", "--cov-context=test", "--cov-report="]
    environment = {**os.environ, "COVERAGE_FILE": str(out.resolve() / "coverage")}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "--dist=worksteal", *options]
    subprocess.run(command, env=environment, check=False)
    report = out / "coverage.json"
    subprocess.run([sys.executable, "-m", "coverage", "json", "-q", "-o", report], env=environment, check=True)
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for path, file in json.loads(report.read_text())["files"].items():
        totals[room_of(path)].update({key: value for key, value in file["summary"].items() if isinstance(value, int)})
    lines = ["| room | statements | run | branches run |", "|---|---:|---:|---:|"]
    for room, of in sorted(totals.items()):
        branches = of["covered_branches"] / max(of["num_branches"], 1)
        run = of["covered_lines"] / max(of["num_statements"], 1)
        lines.append(f"| {room} | {of['num_statements']:,} | {run:.1%} | {branches:.1%} |")
    print("\n".join(lines))


def tests_by_line(out: Path) -> dict[str, dict[int, list[str]]]:
    """For each file and line, the tests that run it, those that run the fewest lines of the library first."""
    from coverage import CoverageData

    data = CoverageData(basename=str(out / "coverage"))
    data.read()
    found = {
        path.removeprefix(f"{Path.cwd()}/"): {
            line: sorted({context.partition("|")[0] for context in contexts if context})
            for line, contexts in data.contexts_by_lineno(path).items()
        }
        for path in data.measured_files()
    }
    extent = Counter(test for lines in found.values() for tests in lines.values() for test in tests)
    for tests in (tests for lines in found.values() for tests in lines.values()):
        tests.sort(key=lambda test: (extent[test], test))
    return found


def mutations(tree: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """Yields the kind of each mutation of a module, the node and its replacement; none inside of f-strings."""
    formatted = {part for text in ast.walk(tree) if isinstance(text, ast.JoinedStr) for part in ast.walk(text)}
    for node in (node for node in ast.walk(tree) if node not in formatted):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield "comparison", node, ast.Compare(node.left, [NEGATED[type(node.ops[0])]()], node.comparators)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield "constant", node, ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield "call", node, ast.Pass()
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
    text = ast.unparse(ast.fix_missing_locations(replacement))
    text = text if isinstance(replacement, ast.Pass | ast.Constant) else f"({text})"
    return (code[:start] + text.encode() + code[end:]).decode()


def draw_mutants(files: dict[str, dict[int, list[str]]]) -> list[tuple[str, str, int, str]]:
    """Draws mutants: (kind, path, line, mutated source). Files are drawn by their lines, then a kind, then a place."""
    rng, paths = random.Random(SEED), sorted(files)
    drawn: list[tuple[str, str, int, str]] = []
    while len(drawn) < COUNTS["mutants"]:
        [path] = rng.choices(paths, [len(files[path]) for path in paths])
        source = Path(path).read_text()
        by_kind: dict[str, list[tuple[Any, ast.AST]]] = defaultdict(list)
        for kind, node, replacement in mutations(ast.parse(source)):
            by_kind[kind].append((node, replacement))
        if by_kind:
            kind = rng.choice(sorted(by_kind))
            node, replacement = rng.choice(by_kind[kind])
            drawn.append((kind, path, node.lineno, mutated(source, node, replacement)))
    return drawn


def fails(tree: Path, tests: list[str], seconds: int) -> bool:
    """Whether one of the tests fails on a tree within the time limit."""
    paths = os.pathsep.join(map(str, (tree, tree / "plugins")))
    command = [sys.executable, "-m", "pytest", "-qx", "-n0", "--dist=no", "-pno:cacheprovider", "-m", "", *tests]
    environment = {**os.environ, "PYTHONPATH": paths}
    try:
        run = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=seconds)
        return run.returncode in (1, 2)  # a test fails, or a module cannot be imported
    except subprocess.TimeoutExpired:
        return False


def fixes() -> Iterator[tuple[str, str, list[str]]]:
    """Yields commits in a drawn order that change few lines of the library and add tests: hash, patch, test files."""
    commits = subprocess.check_output(["git", "log", "--no-merges", "--format=%h"], text=True).split()
    random.Random(SEED).shuffle(commits)
    for commit in commits:
        shown = ["git", "show", "--format=", commit, "--"]
        patch = subprocess.check_output([*shown, *SOURCES], text=True)
        added = subprocess.check_output([*shown, "tests"], text=True)
        changed = sum(line[:1] in "+-" and line[:3] not in ("+++", "---") for line in patch.splitlines() if line)
        if "\n+def test_" in added and 0 < changed <= LARGEST_FIX:
            names = re.findall(r"(?m)^\+\+\+ b/(tests/.*test_\w+\.py)$", added)
            yield commit, patch, [name for name in names if Path(name).is_file()]


def trials(what: str, out: Path, tree: Path) -> Iterator[dict[str, Any]]:
    """Yields mutants or undone fixes, each applied to the tree: where, the kind, and the tests that may find it."""
    by_line = tests_by_line(out)
    if what == "mutants":
        for kind, path, line, source in draw_mutants(by_line):
            (tree / path).write_text(source)
            yield {"kind": kind, "where": f"{path}:{line}", "room": room_of(path), "tests": by_line[path].get(line, [])}
        return
    for commit, patch, tests in fixes():
        undone = subprocess.run(["git", "apply", "-R", "-"], cwd=tree, input=patch, text=True, capture_output=True)
        if undone.returncode == 0:  # later commits have not changed these lines
            yield {"kind": "fix", "where": commit, "room": "", "tests": tests}


def measure(what: str, out: Path) -> None:
    """Runs the trials that have no row yet, and prints how many of each kind were found."""
    tree, file = (out / "tree").resolve(), out / f"{what}.jsonl"
    if not tree.exists():
        subprocess.run(["git", "worktree", "add", "--detach", str(tree)], check=True)
    done = file.read_text().splitlines() if file.exists() else []
    for number, trial in enumerate(islice(trials(what, out, tree), COUNTS[what])):
        if number >= len(done):
            tests = trial.pop("tests")[:TESTS]
            row = {**trial, "found": bool(tests) and fails(tree, tests, SECONDS[what]), "tests": len(tests)}
            done.append(json.dumps(row))
            with file.open("a") as opened:
                opened.write(done[-1] + "\n")
            print(done[-1], flush=True)
        subprocess.run(["git", "checkout", "-q", "."], cwd=tree, check=True)
    rows = [json.loads(line) for line in done]
    for kind in (*sorted({row["kind"] for row in rows}), "all"):
        found = [row["found"] for row in rows if kind in (row["kind"], "all")]
        print(f"| {kind} | {len(found)} | {sum(found) / len(found):.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["coverage", "mutants", "fixes"])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what == "coverage":
        measure_coverage(args.out)
    else:
        measure(args.what, args.out)


if __name__ == "__main__":
    main()
