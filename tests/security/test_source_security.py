"""What the source may not hold: searched in the syntax tree of every module, by rules that are tried first."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import daskglm

PACKAGE = Path(daskglm.__file__).parent
# Whatever the object is called: a method or function of this name runs text or unpickles.
FORBIDDEN = {
    "eval", "exec", "execfile", "query", "system", "popen", "getoutput", "getstatusoutput", "unsafe_load", "full_load",
    "unsafe_load_all", "full_load_all", "load_all", "read_pickle", "to_pickle", "mktemp", "from_string",
}  # fmt: skip
BARE = {"eval", "exec", "compile", "__import__"}
UNPICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch", "yaml"}
SHELLS = {"Popen", "run", "call", "check_call", "check_output", "create_subprocess_shell"}


def findings(tree: ast.AST) -> Iterator[str]:
    """What is wrong, and in which line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found = of_call(node)
            if found:
                yield f"{node.lineno}: {found}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if text.startswith(("/tmp", "/var/tmp", "/dev/shm")):  # noqa: S108
                yield f"{node.lineno}: a predictable place {text!r}"
            if any(f"<{tag}" in text.lower() for tag in ("html", "div", "script", "body", "table", "img")):
                yield f"{node.lineno}: HTML made by hand {text[:30]!r}"


def of_call(node: ast.Call) -> str | None:
    """What is wrong with a call."""
    function = node.func
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if isinstance(function, ast.Name):
        owner, name = "", function.id
    elif isinstance(function, ast.Attribute):
        owner, name = ast.unparse(function.value), function.attr
    else:
        return None
    if name in FORBIDDEN or (not owner and name in BARE):
        return f"{owner}.{name}()"
    if name in ("load", "loads", "Unpickler") and owner in UNPICKLERS:
        return f"{owner}.{name}()"
    if (owner, name) in (("np", "load"), ("numpy", "load")) and given.get("allow_pickle") != "False":
        return "np.load() without allow_pickle=False"
    if given.get("allow_pickle", "False") != "False":
        return f"allow_pickle={given['allow_pickle']}"
    if given.get("shell", "False") != "False" or name == "create_subprocess_shell":
        return f"{name}() by a shell"
    if name in SHELLS and owner == "subprocess" and isinstance(node.args[0] if node.args else None, ast.JoinedStr):
        return f"{name}() of one text"
    unescaped = given.get("autoescape", "False") in ("False", "None")
    if name in ("Environment", "Template") and "jinja2" in (owner or "jinja2") and unescaped:
        return f"{name}() without autoescape"
    return None


BAD = [
    "eval('1')", "exec(text)", "compile(text, '', 'eval')", "__import__('os')", "pandas.eval('a')", "table.eval('a')",
    "table.query('a')", "os.system('x')", "os.popen('x')", "subprocess.getoutput('x')",
    "subprocess.run('x', shell=True)",
    "subprocess.Popen(x, shell=flag)", "asyncio.create_subprocess_shell('x')", "pickle.load(f)", "pickle.loads(b)",
    "cloudpickle.loads(b)", "joblib.load(p)", "marshal.loads(b)", "np.load(p)", "np.load(p, allow_pickle=True)",
    "numpy.load(p, allow_pickle=flag)", "np.save(p, a, allow_pickle=True)", "pd.read_pickle(p)", "yaml.load(t)",
    "yaml.load(t, Loader=yaml.Loader)", "yaml.unsafe_load(t)", "yaml.full_load(t)", "tempfile.mktemp()",
    "open('/tmp/daskglm')", "jinja2.Environment()", "Environment(loader=x)", "jinja2.Template(t)",
    "jinja2.Environment(autoescape=False)", "x = '<div>' + name", "f'<td><img src={name}>'", "pickle.Unpickler(f)",
]  # fmt: skip
GOOD = [
    "re.compile('a')", "np.load(p, allow_pickle=False)", "yaml.safe_load(t)", "json.load(f)", "joblib.hash(x)",
    "subprocess.run(['squeue', '--me'])", "tempfile.mkdtemp(dir=folder)", "jinja2.Environment(autoescape=True)",
    "model.evaluate(x)", "ast.parse(t, mode='eval')",
]  # fmt: skip


@pytest.mark.parametrize("line", BAD)
def test_rules_find(line):
    assert list(findings(ast.parse(line)))


@pytest.mark.parametrize("line", GOOD)
def test_rules_let_pass(line):
    assert list(findings(ast.parse(line))) == []


MODULES = sorted(PACKAGE.rglob("*.py"))


def test_all_modules_are_searched():
    assert len(MODULES) > 80


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_module(path):
    assert list(findings(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_templates_escape_everything():
    """Reports may come to have templates; none may take what a name holds for HTML."""
    for path in [path for suffix in ("*.html", "*.j2", "*.jinja") for path in PACKAGE.rglob(suffix)]:
        assert not re.search(r"\|\s*safe\b|autoescape\s+false|Markup", path.read_text(encoding="utf-8")), path


def test_no_pickles_in_the_package():
    assert [path for suffix in ("*.pkl", "*.pickle", "*.joblib") for path in PACKAGE.rglob(suffix)] == []
