# SPDX-License-Identifier: Apache-2.0
"""A typed ``.pyi`` for the functions of objects."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Iterable, Iterator

import tvm_ffi

from ._reports import FileReport, FunctionReport

_BUILTINS = frozenset(
    ("int", "float", "bool", "str", "bytes", "object", "list", "dict", "tuple", "set", "None")
)
_TYPING = frozenset(("Any", "Callable", "Optional", "Union", "Literal"))


class _Types(ast.NodeTransformer):
    """Turns the types in a signature into those that Python knows, and notes what to import."""

    def __init__(self) -> None:
        self.from_tvm_ffi: set[str] = set()
        self.from_typing: set[str] = set()

    def _known(self, name: str) -> ast.expr:
        if name in _BUILTINS:
            pass
        elif name in _TYPING:
            self.from_typing.add(name)
        elif isinstance(getattr(tvm_ffi, name, None), type):
            self.from_tvm_ffi.add(name)
        else:
            name = "Any"
            self.from_typing.add(name)
        return ast.Name(name)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._known(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return self._known(node.attr)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        visited: ast.expr = self.visit(node.func)  # Tensor([n], float32) is a Tensor
        return visited

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return node if node.value is None or node.value is ... else self._known("Any")


def _function(report: FunctionReport, types: _Types) -> Iterator[str]:
    name = report.name
    if not name.isidentifier() or keyword.iskeyword(name):
        yield f"# {name!a}: no Python name"
        return
    text = report.signature or "(*args)"
    (definition,) = ast.parse(f"def {name}{text}: ...").body
    assert isinstance(definition, ast.FunctionDef)
    arguments = definition.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    for argument in every + [other for other in (arguments.vararg, arguments.kwarg) if other]:
        written = argument.annotation or ast.Name("Any")
        argument.annotation = types.visit(written)
    definition.returns = types.visit(definition.returns or ast.Name("Any"))
    body: list[ast.stmt] = [ast.Expr(ast.Constant(...))]
    if report.doc:
        body = [ast.Expr(ast.Constant(report.doc))]
    definition.body = body
    yield ast.unparse(ast.fix_missing_locations(definition))


def stub(files: Iterable[FileReport]) -> str:
    """Return the text of a ``.pyi`` with the functions of these files."""
    types = _Types()
    functions: dict[str, FunctionReport] = {}
    reports = list(files)
    while reports:
        file = reports.pop(0)
        reports[:0] = file.members
        for function in file.functions:
            functions.setdefault(function.name, function)
    lines = [line for name in sorted(functions) for line in _function(functions[name], types)]
    imports = []
    if types.from_typing:
        imports.append(f"from typing import {', '.join(sorted(types.from_typing))}")
    if types.from_tvm_ffi:
        imports.append(f"from tvm_ffi import {', '.join(sorted(types.from_tvm_ffi))}")
    return "\n\n".join(["\n".join(imports), *lines] if imports else lines) + "\n"
