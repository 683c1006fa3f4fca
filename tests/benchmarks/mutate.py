"""Whether the tests notice small faults: mutants of the package, each run against the tests that reach its line.

    python tests/benchmarks/mutate.py                        # 300 mutants drawn from all, about an hour on two cores
    python tests/benchmarks/mutate.py --number 40 --seed 7   # fewer, others
    python tests/benchmarks/mutate.py --only daskglm/kernels/tfce.py --number 1000

A mutant has one sign, comparison, bound, tolerance, flag or number changed, one term of a sum dropped, or one part of a
tuple, dictionary or call left out (a key without its seed); flags that guard against a slip of the programmer (strict,
frozen) or are of speed alone (copy, optimize) stay as they are. The operators are cosmic-ray's (pip install cosmic-ray
pytest-cov), and three of our own. The tests run once under coverage, which tells the tests that reach a line; a mutant
meets those, the quickest first. What is judged equivalent, that is, no input can show it, is listed with its reason in
mutants_equivalent.yaml and is not counted. It fails where less than 85% of the others are noticed.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from queue import Queue
from typing import Any

import parso
import yaml
from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("daskglm/kernels", "daskglm/design", "daskglm/inference", "daskglm/io")
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.yaml")
ASKED = 0.85
STANDARD = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Eq_NotEq", "NotEq_Eq")),
    *("ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is"),
    *("ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_Invert"),
    "NumberReplacer",
)
_GUARDS = re.compile(r"\b(strict|frozen|copy|optimize)= ?(True|False),? ?")
# Tests that a mutant of arithmetic has no need of: servers, queues, browsers, whole examples, random interruptions.
LEFT_OUT = (
    *("tests/cluster", "tests/examples", "tests/test_readme.py", "tests/report/test_browser.py", "tests/nilearn"),
    *("tests/faults/test_killed_anywhere.py", "tests/io/test_object_storage_faults.py"),
)
# Tests of a mutant are chosen to take BUDGET seconds; one that runs LIMIT no longer ends, and is noticed.
LIMIT, BUDGET = 420.0, 60.0


@dataclass(frozen=True)
class Mutant:
    """One changed place of one file."""

    path: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str


class ScaleTolerance(Operator):  # type: ignore[misc]
    """A small number, a tolerance, is a thousand times as large, or nothing."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """Where a tolerance stands."""
        if _is_tolerance(node):
            yield from [(node.start_pos, node.end_pos)] * 2

    def mutate(self, node: Any, index: int) -> Any:
        """The other number."""
        value = "0.0" if index else repr(float(node.value) * 1e3)
        return parso.python.tree.Number(value, node.start_pos, prefix=node.prefix)

    @classmethod
    def examples(cls) -> Iterable[Any]:
        """None: they are cosmic-ray's tests of itself."""
        return ()


class DropTerm(Operator):  # type: ignore[misc]
    """One term of a sum or one factor of a product is left out."""

    kinds = ("arith_expr", "term")

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """Where a sum or a product stands, once for each term but the first."""
        if node.type in self.kinds:
            yield from [(node.start_pos, node.end_pos)] * (len(node.children) // 2)

    def mutate(self, node: Any, index: int) -> Any:
        """The sum without that term."""
        del node.children[2 * index + 1 : 2 * index + 3]
        return node

    @classmethod
    def examples(cls) -> Iterable[Any]:
        """None: they are cosmic-ray's tests of itself."""
        return ()


class DropPart(Operator):  # type: ignore[misc]
    """One element of a tuple or list, one entry of a dictionary, or one keyword of a call is left out."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """Where such a list stands, once for each part."""
        yield from [(node.start_pos, node.end_pos)] * len(self._parts(node))

    def mutate(self, node: Any, index: int) -> Any:
        """The list without that part."""
        first, after = self._parts(node)[index]
        del node.children[first:after]
        return node

    def _parts(self, node: Any) -> list[tuple[int, int]]:
        """Children of each part and its comma, from and to."""
        if node.type not in ("testlist_comp", "dictorsetmaker", "arglist"):
            return []
        if any(child.type in ("sync_comp_for", "comp_for") for child in node.children):
            return []
        commas = [k for k, child in enumerate(node.children) if getattr(child, "value", None) == ","]
        if not commas:
            return []
        starts = [0, *(k + 1 for k in commas)]
        parts = [
            (a, min(b, len(node.children))) for a, b in zip(starts, [*starts[1:], len(node.children)], strict=True)
        ]
        parts = [(a, b) for a, b in parts if a < b]
        if node.type == "arglist":
            parts = [(a, b) for a, b in parts if node.children[a].type == "argument"]
        return parts

    @classmethod
    def examples(cls) -> Iterable[Any]:
        """None: they are cosmic-ray's tests of itself."""
        return ()


OWN = {"ScaleTolerance": ScaleTolerance, "DropTerm": DropTerm, "DropPart": DropPart}


def _is_tolerance(node: Any) -> bool:
    """Whether a node is a number written like 1e-10."""
    return node.type == "number" and "e-" in node.value.lower()


@cache
def operator_of(name: str) -> Any:
    """An operator by its name."""
    return OWN[name]() if name in OWN else get_operator(f"core/{name}")()


def places_of(path: Path) -> Iterator[tuple[Path, int, str, int]]:
    """Where a file can be mutated, but for texts, annotations and messages: file, line, operator, occurrence."""
    source = path.read_text()
    skipped, nodes = _unasked_lines(source), list(_nodes(get_ast(source)))
    for name in (*STANDARD, *OWN):
        positions = (position for node in nodes for position in operator_of(name).mutation_positions(node))
        for occurrence, (start, _) in enumerate(positions):
            if start[0] not in skipped:
                yield path, start[0], name, occurrence


def mutant_at(path: Path, line: int, operator: str, occurrence: int) -> Mutant | None:
    """The mutant of a place; None where it is not Python, or changes nothing."""
    source = path.read_text()
    changed = mutate_code(source, operator_of(operator), occurrence)
    if changed is None or not _compiles(changed):
        return None
    before, after = _difference(source, changed)
    if _without_guards(before) == _without_guards(after):
        return None
    return Mutant(str(path.relative_to(ROOT)), line, operator, occurrence, before, after)


def _without_guards(line: str) -> str:
    """A line without the flags that stay as they are."""
    return _GUARDS.sub("", line).replace(" ", "").replace(",)", ")").strip(",")


def _nodes(node: Any) -> Iterator[Any]:
    """The tree in the order in which cosmic-ray counts."""
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def _unasked_lines(source: str) -> set[int]:
    """Lines of docstrings, imports, errors' and warnings' words, and annotations."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_warning = isinstance(node, ast.Expr) and "warn" in ast.unparse(node.value)[:24]
        if is_text or is_warning or isinstance(node, (ast.Raise, ast.Import, ast.ImportFrom)):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        if isinstance(node, ast.FunctionDef) and node.body:
            lines |= set(range(node.lineno, node.body[0].lineno))
    return lines


def _compiles(source: str) -> bool:
    """Whether a mutant is Python at all."""
    try:
        compile(source, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _difference(before: str, after: str) -> tuple[str, str]:
    """The first line that differs, before and after."""
    for one, other in zip(before.splitlines(), after.splitlines(), strict=False):
        if one != other:
            return one.strip(), other.strip()
    return "", ""


def drawn(places: list[tuple[Path, int, str, int]], number: int, seed: int) -> list[Mutant]:
    """A sample in which each line stands once at most, and each kind of change about as often as another."""
    kinds: dict[str, list[tuple[Path, int, str, int]]] = defaultdict(list)
    shuffled = list(places)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - a sample, no secret
    for place in shuffled:
        kinds[_kind(place[2])].append(place)
    taken: list[Mutant] = []
    lines: set[tuple[Path, int]] = set()
    while any(kinds.values()) and len(taken) < number:
        for members in kinds.values():
            mutant = None
            while members and mutant is None:
                place = members.pop()
                mutant = None if place[:2] in lines else mutant_at(*place)
            if mutant is not None and len(taken) < number:
                taken.append(mutant)
                lines.add(place[:2])
    return taken


def _kind(operator: str) -> str:
    """What an operator changes."""
    names = {
        "Binary": "sign or operation", "Comparison": "comparison", "Unary": "sign or operation", "And": "and, or",
        "Or": "and, or", "True": "flag", "False": "flag", "Number": "number", "Scale": "tolerance",
        "DropTerm": "dropped term", "DropPart": "dropped part",
    }  # fmt: skip
    return next(kind for start, kind in names.items() if operator.removeprefix("Replace").startswith(start))


def reached(work: Path) -> tuple[dict[tuple[str, int], set[str]], dict[str, float]]:
    """For each line the tests that reach it, and for each test its seconds; measured once a folder of work."""
    data, times = work / "coverage", work / "times.json"
    if not times.exists():
        tree = copied(work / "measured")
        ignored = [f"--ignore={name}" for name in LEFT_OUT]
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:randomly", "-p", "no:cacheprovider"),
            # Under coverage in Python 3.11 all threads spin for ever while one that sleeps is to be interrupted.
            *("-k", "not interrupt and not before_names"),
            *("--cov=daskglm", "--cov-context=test", "--cov-report=", "--junitxml", str(work / "junit.xml"), *ignored),
        ]
        environment = {**os.environ, "COVERAGE_FILE": str(data), "PYTHONPATH": str(tree)}
        subprocess.run(command, cwd=tree, env=environment, check=False)
        times.write_text(json.dumps(_seconds(work / "junit.xml")))
    seconds = json.loads(times.read_text())
    found: dict[tuple[str, int], set[str]] = defaultdict(set)
    with sqlite3.connect(data) as database:
        files = dict(database.execute("select id, path from file"))
        contexts = dict(database.execute("select id, context from context"))
        for file, context, bits in database.execute("select file_id, context_id, numbits from line_bits"):
            test = contexts[context].partition("|")[0]
            name = "daskglm/" + files[file].rpartition("/daskglm/")[2]
            for place, byte in enumerate(bits):
                for bit in range(8):
                    if byte >> bit & 1:
                        found[name, 8 * place + bit].add(test)
    return found, seconds


def _seconds(report: Path) -> dict[str, float]:
    """Seconds of each test, by its name as pytest takes it; those that fail without a mutant are left out."""
    from xml.etree import ElementTree

    found: dict[str, float] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314
        module, _, group = case.attrib["classname"].partition(".Test")
        name = module.replace(".", "/") + ".py::" + (f"Test{group}::" if group else "") + case.attrib["name"]
        if case.find("failure") is None and case.find("error") is None and case.find("skipped") is None:
            found[name] = float(case.attrib["time"])
    return found


def copied(target: Path) -> Path:
    """The files that git knows, as they are here, in a folder of their own."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    shared = ROOT.parent / "shared"
    if shared.is_dir() and not (target.parent / "shared").exists():
        (target.parent / "shared").symlink_to(shared)
    return target


def is_noticed(mutant: Mutant, tests: list[str], tree: Path) -> bool:
    """Whether a test fails, or does not end, with the mutant in place."""
    path = tree / mutant.path
    source = path.read_text()
    changed = mutate_code(source, operator_of(mutant.operator), mutant.occurrence)
    listed = tree / "tests-of-this-mutant.txt"
    listed.write_text("\n".join(tests))
    path.write_text(changed)
    command = [
        *(sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:randomly", "-p", "no:cacheprovider"),
        *("--no-header", "--tb=no", f"@{listed}"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return process.wait(LIMIT) != 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return True
    finally:
        path.write_text(source)


def _named_at(source: str, line: int) -> list[str]:
    """What a statement outside of functions names: constants, or a class with its fields."""
    for node in ast.parse(source).body:
        if node.lineno <= line <= (node.end_lineno or node.lineno):
            names = [x.id for x in ast.walk(node) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)]
            return [node.name] if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else names
    return []


def tests_of(mutant: Mutant, lines: dict[tuple[str, int], set[str]]) -> set[str]:
    """The tests that reach a mutant's line; of what is read at import, those that reach a line that names it."""
    tests = lines.get((mutant.path, mutant.line), set()) - {""}
    constants = _named_at((ROOT / mutant.path).read_text(), mutant.line)
    if tests or not constants:
        return tests
    named = re.compile(rf"\b({'|'.join(constants)})\b")
    for file in (ROOT / "daskglm").rglob("*.py"):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if named.search(line):
                tests = tests | lines.get((str(file.relative_to(ROOT)), number), set()) - {""}
    return tests


def quickest(tests: Iterable[str], seconds: dict[str, float]) -> list[str]:
    """The tests of a line that pass without a mutant, the quickest first, as many as the budget holds."""
    chosen, spent = [], 0.0
    for test in sorted((test for test in tests if test in seconds), key=lambda test: (seconds[test], test)):
        if chosen and spent + seconds[test] > BUDGET:
            break
        chosen.append(test)
        spent += seconds[test]
    return chosen


def judged(mutants: list[Mutant], work: Path, workers: int) -> dict[Mutant, bool]:
    """Whether each mutant is noticed; kept as they come, so that a run that is stopped goes on."""
    known = work / "judged.jsonl"
    done: dict[Mutant, bool] = {}
    for text in known.read_text().splitlines() if known.exists() else []:
        entry = json.loads(text)
        done[Mutant(**entry["mutant"])] = entry["noticed"]
    lines, seconds = reached(work)
    trees: Queue[Path] = Queue()
    for k in range(workers):
        trees.put(copied(work / f"tree-{k}"))
    start = time.monotonic()

    def judge(mutant: Mutant) -> None:
        tests = quickest(tests_of(mutant, lines), seconds)
        tree = trees.get()
        try:
            noticed = bool(tests) and is_noticed(mutant, tests, tree)
        finally:
            trees.put(tree)
        done[mutant] = noticed
        with known.open("a") as file:
            file.write(json.dumps({"mutant": asdict(mutant), "noticed": noticed, "tests": len(tests)}) + "\n")
        word = "noticed" if noticed else "SURVIVED"
        print(f"{time.monotonic() - start:6.0f} s {word} {mutant.path}:{mutant.line} {mutant.after}", flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(judge, [mutant for mutant in mutants if mutant not in done]))
    return {mutant: done[mutant] for mutant in mutants}


def equivalent() -> dict[tuple[str, str, str], str]:
    """Reasons of the mutants that no input can show, by file, line before and line after."""
    entries = yaml.safe_load(EQUIVALENT.read_text()) if EQUIVALENT.exists() else []
    return {(entry["path"], entry["before"], entry["after"]): entry["why"] for entry in entries or []}


def table(noticed: dict[Mutant, bool], reasons: dict[tuple[str, str, str], str]) -> float:
    """Print what was found; the part of the mutants noticed that are not equivalent."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant, seen in noticed.items():
        same = not seen and (mutant.path, mutant.before, mutant.after) in reasons
        word = "noticed" if seen else "equivalent" if same else "survived"
        for row in (mutant.path.rpartition("/")[0], _kind(mutant.operator), "all"):
            rows[row][word] += 1
    print(f"\n{'':24}{'mutants':>10}{'equivalent':>12}{'noticed':>10}{'of the rest':>13}")
    for row, counts in sorted(rows.items(), key=lambda item: (item[0] == "all", item[0])):
        rest = counts["noticed"] + counts["survived"]
        part = counts["noticed"] / rest if rest else 1.0
        print(f"{row:24}{counts.total():>10}{counts['equivalent']:>12}{counts['noticed']:>10}{part:>13.0%}")
    print("\nSurvived:")
    for mutant, seen in noticed.items():
        if not seen and (mutant.path, mutant.before, mutant.after) not in reasons:
            print(f"  {mutant.path}:{mutant.line}\n    - {mutant.before}\n    + {mutant.after}")
    return part


def main() -> None:
    """Draw, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=300, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=FOLDERS, help="files or folders")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder that keeps what was measured; a new one by default")
    arguments = parser.parse_args()
    work = (arguments.work or Path(tempfile.mkdtemp(prefix="mutants-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    named = [ROOT / name for name in arguments.only]
    files = sorted({file for path in named for file in (path.rglob("*.py") if path.is_dir() else [path])})
    places = [place for file in files for place in places_of(file)]
    chosen = drawn(places, arguments.number, arguments.seed)
    print(f"{len(places)} places, {len(chosen)} mutants drawn; kept in {work}", flush=True)
    part = table(judged(chosen, work, arguments.workers), equivalent())
    if part < ASKED:
        sys.exit(f"{part:.0%} noticed, {ASKED:.0%} asked")


if __name__ == "__main__":
    main()
