"""Public functions say what they take, give and raise."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "daskglm"


def public_functions():
    """Every public function and method of the package, but command-line ones (their docstring is the help)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent.name == "cli":
            continue
        tree = ast.parse(path.read_text())
        owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_")]
        for owner in owners:
            for node in owner.body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    yield pytest.param(node, id=f"{path.relative_to(PACKAGE)}:{node.name}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_docstring(function):
    text = ast.get_docstring(function) or ""
    assert text, "no docstring"
    decorators = {ast.unparse(decorator) for decorator in function.decorator_list}
    arguments = [a.arg for a in [*function.args.args, *function.args.kwonlyargs] if a.arg not in ("self", "cls")]
    for name in arguments:
        assert re.search(rf"^(\w+, )*\*?{name}(, \w+)*( :|$)", text, re.M), f"{name} is not described"
    returns = None if function.returns is None else ast.unparse(function.returns)
    if returns != "None" and "property" not in decorators:
        assert re.search(r"^(Returns|Yields)$", text, re.M), "what it returns is not described"
    if any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(function)):
        assert re.search(r"^Raises$", text, re.M), "what it raises is not described"
    for name in re.findall(r"(?<![A-Za-z])(?:NDArray|Array)\b", ast.unparse(function.args)):
        assert re.search(r"\(\w.*\)|shape", text), f"the shape of {name} is not described"
