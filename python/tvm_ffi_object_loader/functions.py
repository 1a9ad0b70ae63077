# SPDX-License-Identifier: Apache-2.0
"""What functions of loaded code say of themselves: name, signature, documentation.

It is worked out when it is first asked for, and kept in the function. A signature comes from the
text that compilers of kernels put into the object's constants, or from the documentation's first
line, or from the metadata. Metadata and documentation are functions of the object, which are called
for that, as tvm-ffi's own ``get_function_metadata`` calls them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, NamedTuple

from tvm_ffi.utils import kwargs_wrapper

from . import _native, _signatures

if TYPE_CHECKING:
    import tvm_ffi

    from ._native import Dylib as NativeDylib

_HOW_TO_GET_ONE = (
    "Nothing more is known of it. Compiled with -DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1, an object "
    "also has the signatures of its functions, and their documentation "
    "(TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC)."
)
_UNKNOWN = Signature([Parameter("args", Parameter.VAR_POSITIONAL)])


class Known(NamedTuple):
    """What is known of a function; nothing in it refers to loaded code."""

    signature: Signature | None
    doc: str | None
    reloads: int = 0  # how often its dylib had been reloaded when it was found out


def metadata_of(dylib: NativeDylib, name: str) -> dict[str, Any] | None:
    """Return the metadata of a function, or `None` where its object has none.

    Raises
    ------
    ValueError
        If it is no JSON object.
    """
    text = dylib.metadata(name)
    if text is None:
        return None
    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise ValueError(f"the metadata of {name!r} is no JSON object: {text!r}")
    return metadata


def _ask(dylib: NativeDylib, name: str) -> Known:
    start = f"{name}(".encode("utf-8", "surrogateescape")
    texts = dylib.find_constants(start, _signatures.LONGEST)
    in_data = _signatures.from_texts(texts, name)
    try:
        typed = _signatures.from_metadata(metadata_of(dylib, name))
    except ValueError:
        typed = None
    stated, doc = _signatures.split_doc(dylib.doc(name), name)
    return Known(_signatures.combine(stated or in_data, typed), doc)


def known(function: Any) -> Known:
    """Return what is known of a function, after asking its object if that was not done yet."""
    found: Known | None = getattr(function, "_known", None)
    owner = _native.owner_of(function)
    if owner is None:
        return found or Known(None, None)
    dylib, own_name = owner
    reloads = dylib.reloads
    if found is not None and (found.reloads == reloads or dylib.closed):
        return found
    if dylib.closed:
        return Known(None, None)
    try:
        found = _ask(dylib, own_name)._replace(reloads=reloads)
    except Exception:  # of the object's code, or since it was closed a moment ago
        return Known(None, None)
    function._known = found
    return found


def name(function: tvm_ffi.Function) -> str:
    """Return the function's name: its ``__name__``."""
    owner = _native.owner_of(function)
    if owner is None:  # it was moved out of its Python object
        raise AttributeError("the function has no name")
    return owner[1]


def signature(function: tvm_ffi.Function) -> Signature:
    """Return the function's signature, ``(*args)`` where it is not known: ``__signature__``."""
    return known(function).signature or _UNKNOWN


def doc(function: tvm_ffi.Function) -> str | None:
    """Return the function's documentation, or how to get one: its ``__doc__``."""
    owner = _native.owner_of(function)
    if owner is None:
        return None
    found = known(function)
    if found.doc is not None:
        return found.doc
    text = f"A function of dylib {owner[0].name!r}."
    return text if found.signature is not None else f"{text}\n\n{_HOW_TO_GET_ONE}"


def show(function: tvm_ffi.Function) -> str:
    """Return the function's ``repr``."""
    owner = _native.owner_of(function)
    if owner is None:
        return object.__repr__(function)
    dylib, own_name = owner
    if dylib.closed:
        return f"<Function {own_name}, dylib {dylib.name!r}, closed>"
    return f"<Function {own_name}{_signatures.shown(signature(function))}, dylib {dylib.name!r}>"


def packer(function: tvm_ffi.Function) -> Callable[..., tuple[object, ...]] | None:
    """Return what makes a call's arguments positional, or `None` where names are not known."""
    found = known(function).signature
    return None if found is None else _make_packer(found, name(function))


@functools.lru_cache(maxsize=1024)
def _make_packer(found: Signature, own_name: str) -> Callable[..., tuple[object, ...]] | None:
    kinds = {parameter.kind for parameter in found.parameters.values()}
    if not kinds <= {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY} or not kinds:
        return None

    def pack(*arguments: object) -> tuple[object, ...]:
        return arguments

    try:
        make = kwargs_wrapper.make_kwargs_wrapper_from_signature
        packer: Callable[..., tuple[object, ...]] = make(pack, found)
    except (TypeError, ValueError):  # a name that the wrapper cannot have
        return None
    packer.__qualname__ = own_name  # which errors of calls name
    return packer
