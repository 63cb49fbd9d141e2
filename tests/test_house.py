"""The structure of the package: ranks, flat classes, names, short files, documented public objects."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import tokenize
from pathlib import Path

import pytest
from torch import nn

import reverie as rv
from reverie.core import registry

ROOT = Path(rv.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
RANKS = (  # lowest first: a package imports from its own rank and from lower ones
    *("core", "recipes", "media", "data", "optim", "nets", "pretrained", "probability", "diffusion", "adversarial"),
    *(
        "models",
        "training",
        "inference",
        "views",
        "evaluation",
        "codes",
        "compression",
        "editing",
        "restoration",
        "dreaming",
        "interop",
        "workflow",
    ),
    *("commands", "cli", "__main__"),
)
FILLERS = frozenset(
    ("found", "told", "made", "said", "asked", "given", "one", "place", "shown", "drawn", "wanted", "known", "facts")
    + ("own", "whole", "aside")
)
CODE_LINES = 35_700


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(tree: ast.AST):
    """Modules of ours that a file imports, lazily too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "reverie":
            parts = node.module.split(".")
            yield from ([parts[1]] if len(parts) > 1 else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("reverie."))


def test_imports_run_downwards_lazy_ones_included():
    upward = []
    for path, tree in TREES.items():
        if path != ROOT / "__init__.py":
            rank = RANKS.index(room(path))
            targets = (target for target in imports(tree) if target != "__version__")
            upward += [f"{path.relative_to(ROOT)} -> {target}" for target in targets if RANKS.index(target) > rank]
    assert not upward


def test_networks_import_nothing_of_ours_but_the_core():
    others = [(path.name, target) for path, tree in TREES.items() if room(path) == "nets" for target in imports(tree)]
    assert {target for _, target in others} <= {"nets", "core"}


def test_every_model_derives_from_module_and_nothing_of_ours():
    for name in registry.BUILT_IN:
        assert registry.entry(name).kind().__mro__[1] is nn.Module, name
    deeper = []
    for path in FILES:
        if room(path) == "models" and path.name != "__init__.py":
            module = importlib.import_module(".".join(("reverie", *path.relative_to(ROOT).with_suffix("").parts)))
            kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, nn.Module)]
            deeper += [
                kind for kind in kinds if kind.__module__ == module.__name__ and kind.__mro__[1] is not nn.Module
            ]
    assert not deeper


def test_no_variable_argument_or_function_has_a_filler_name():
    fillers = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            names = {
                ast.Name: lambda node: node.id if isinstance(node.ctx, ast.Store) else "",
                ast.Attribute: lambda node: node.attr if isinstance(node.ctx, ast.Store) else "",
                ast.arg: lambda node: node.arg,
                ast.FunctionDef: lambda node: node.name,
                ast.ClassDef: lambda node: node.name,
            }
            if type(node) in names and names[type(node)](node) in FILLERS:
                fillers.append(f"{path.relative_to(ROOT)}:{node.lineno} {names[type(node)](node)}")
    assert not fillers


def test_shared_code_reads_verbs_and_the_card_and_nothing_else_of_a_model():
    def probes(node: ast.AST) -> bool:
        """``getattr(model, ...)`` or ``hasattr(model, ...)``."""
        call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr")
        return call and bool(node.args) and isinstance(node.args[0], ast.Name) and node.args[0].id == "model"

    outside = {path: tree for path, tree in TREES.items() if room(path) != "core"}
    assert not [f"{path}:{n.lineno}" for path, tree in outside.items() for n in ast.walk(tree) if probes(n)]


def test_files_are_short_and_the_package_is_no_longer_than_it_was():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert not {name: length for name, length in lengths.items() if length > 400}
    assert sorted(lengths.values())[len(lengths) // 2] <= 120
    assert sum(map(code_lines, FILES)) <= CODE_LINES


def code_lines(path: Path) -> int:
    """Lines of a file without blanks, comments and docstrings."""
    tree = TREES[path]
    docs = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    lines = {line for t in tokens if t.type not in layout for line in range(t.start[0], t.end[0] + 1)}
    return len(lines - docs)


@pytest.mark.parametrize("name", rv.__all__)
def test_every_public_object_is_documented(name):
    value = getattr(rv, name)
    annotations = ("Channels", "Classes", "Shape", "Side", "SourceChannels")
    assert name in annotations or inspect.getdoc(value), name


def test_every_file_class_and_public_function_has_a_docstring():
    bare = []
    for path, tree in TREES.items():
        if path.name == "__main__.py":
            continue
        if not ast.get_docstring(tree):
            bare.append(str(path.relative_to(ROOT)))
        public = (n for n in ast.iter_child_nodes(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef))
        public = (node for node in public if not node.name.startswith("_") and not is_protocol(node))
        bare += [f"{path.relative_to(ROOT)}:{node.name}" for node in public if not ast.get_docstring(node)]
    assert not bare


def is_protocol(node: ast.AST) -> bool:
    """A class whose methods say what it is."""
    return isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases)
