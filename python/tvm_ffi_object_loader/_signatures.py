# SPDX-License-Identifier: Apache-2.0
"""Signatures of functions: as text in an object, in its documentation, and as a type schema.

CuTe DSL and TVM have the signature in the object's constants, for their error messages:
``add_one(a: Tensor([n0], float32), b: Tensor([n0], float32))``. tvm-ffi's macros write a function
that returns a schema of types, without names. A documentation whose first line is a signature, as
in Python's own extension modules, ``add(a, b=1)``, adds names and default values.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from inspect import Parameter, Signature
from typing import Any

import tvm_ffi

_TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "bytes": bytes,
    "None": None,
}
# Of a signature as text, in bytes: what is longer is something else.
LONGEST = 4096
_MOST_TEXTS = 64  # of a function
_BEGIN = re.compile(rb"(?<![\w.])([A-Za-z_]\w*)\(")


class _Bare:
    """An annotation that is shown without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def shown(signature: Signature) -> str:
    """Return a signature as text, with annotations that are text as they are."""

    def bare(annotation: Any) -> Any:
        return _Bare(annotation) if isinstance(annotation, str) else annotation

    parameters = [
        parameter.replace(annotation=bare(parameter.annotation))
        for parameter in signature.parameters.values()
    ]
    returned = bare(signature.return_annotation)
    return str(signature.replace(parameters=parameters, return_annotation=returned))


def parse(text: str, name: str) -> Signature | None:
    """Return the signature that a text such as ``add(a: int, b=1) -> int`` is, if it is one."""
    try:
        (function,) = ast.parse(f"def {text}: ...").body
        if not isinstance(function, ast.FunctionDef) or function.name != name:
            return None
        if len(function.body) != 1:
            return None
        parameters = list(_parameters(function.args))
        return Signature(parameters, return_annotation=_annotation(function.returns))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _parameters(arguments: ast.arguments) -> Iterator[Parameter]:
    positional = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    for number, (argument, default) in enumerate(
        zip(positional, [*missing, *arguments.defaults], strict=True)
    ):
        before = number < len(arguments.posonlyargs)
        kind = Parameter.POSITIONAL_ONLY if before else Parameter.POSITIONAL_OR_KEYWORD
        yield _parameter(argument, kind, default)
    if arguments.vararg is not None:
        yield _parameter(arguments.vararg, Parameter.VAR_POSITIONAL, None)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(argument, Parameter.KEYWORD_ONLY, default)


def _parameter(argument: ast.arg, kind: Any, default: ast.expr | None) -> Parameter:
    value = Parameter.empty if default is None else ast.literal_eval(default)
    return Parameter(argument.arg, kind, default=value, annotation=_annotation(argument.annotation))


def _annotation(expression: ast.expr | None) -> Any:
    if expression is None:
        return Signature.empty
    text = ast.unparse(expression)
    return _TYPES.get(text, text)


def texts_in(data: bytes, names: Iterable[str]) -> dict[str, list[bytes]]:
    """Return what may be the signatures of functions in this data: by name, from it on."""
    found: dict[bytes, list[bytes]] = {name.encode("utf-8", "replace"): [] for name in names}
    if not found:
        return {}
    for match in _BEGIN.finditer(data):
        texts = found.get(match[1])
        if texts is not None and len(texts) < _MOST_TEXTS:
            texts.append(data[match.start() : match.start() + LONGEST])
    return {name.decode(): texts for name, texts in found.items() if texts}


def from_texts(texts: Iterable[bytes], name: str) -> Signature | None:
    """Return the first of these texts that begins with a signature of the function.

    It has types for all parameters, as those of compilers have: a piece of a program has not.
    """
    for text in texts:
        candidate = _balanced(text)
        signature = parse(candidate, name) if candidate else None
        if signature is not None and all(
            parameter.annotation is not Parameter.empty
            for parameter in signature.parameters.values()
        ):
            return signature
    return None


def _balanced(text: bytes) -> str | None:
    depth = 0
    for position, byte in enumerate(text[:LONGEST]):
        if byte in b"([":
            depth += 1
        elif byte in b")]":
            depth -= 1
            if depth == 0:
                return text[: position + 1].decode("utf-8", "replace")
        elif byte < 32:
            return None
    return None


def from_schema(schema: str) -> Signature | None:
    """Return the signature that a type schema of tvm-ffi describes: types without names.

    `schema` is JSON, ``{"type": "ffi.Function", "args": [result, argument, ...]}``, or of newer
    releases ``{"type": ..., "named_args": {"return": [result], "params": [argument, ...]}}``.
    """
    try:
        function = json.loads(schema)
        if function["type"] != "ffi.Function":
            return None
        if "named_args" in function:
            parts = function["named_args"]
            types = [*parts["return"], *parts.get("params", ())]
            if "params" not in parts:  # any number of any
                any_ = Parameter("args", Parameter.VAR_POSITIONAL)
                return Signature([any_], return_annotation=_type_of(types[0]))
        else:
            types = function.get("args", ())
        if not types:  # any function
            return None
        returned, *annotations = map(_type_of, types)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    parameters = [
        Parameter(f"arg{number}", Parameter.POSITIONAL_ONLY, annotation=annotation)
        for number, annotation in enumerate(annotations)
    ]
    return Signature(parameters, return_annotation=returned)


def _type_of(schema: Mapping[str, Any]) -> Any:
    try:
        text = tvm_ffi.core.TypeSchema.from_json_str(json.dumps(schema)).repr()
    except Exception:  # of a type that this release does not know, or without this class
        text = str(schema["type"])
    return _TYPES.get(text, text)


def from_metadata(metadata: Mapping[str, Any] | None) -> Signature | None:
    """Return the signature in what `get_function_metadata` returns."""
    schema = (metadata or {}).get("type_schema")
    return from_schema(schema) if isinstance(schema, str) else None


def split_doc(doc: str | None, name: str) -> tuple[Signature | None, str | None]:
    """Return the signature that is a documentation's first line, if it is one, and the rest."""
    if not doc:
        return None, doc
    line, _, rest = doc.lstrip().partition("\n")
    signature = parse(line.strip(), name)
    if signature is None:
        return None, doc
    rest = rest.removeprefix("--\n")
    return signature, inspect.cleandoc(rest) or None


def combine(named: Signature | None, typed: Signature | None) -> Signature | None:
    """Return names and default values of one with the types of the other, where they agree."""
    if named is None or typed is None:
        return named or typed
    ours, theirs = list(named.parameters.values()), list(typed.parameters.values())
    if len(ours) != len(theirs):
        return typed  # which the compiler has made
    merged = [
        our.replace(annotation=their.annotation) if our.annotation is Parameter.empty else our
        for our, their in zip(ours, theirs, strict=True)
    ]
    returned = named.return_annotation
    if returned is Signature.empty:
        returned = typed.return_annotation
    return Signature(merged, return_annotation=returned)
