# SPDX-License-Identifier: Apache-2.0
"""Errors, as programs tell them apart."""

from __future__ import annotations

from pathlib import Path

import tvm_ffi_object_loader as tol


def why_not(path: Path) -> str | tuple[str, ...]:
    """Say why an object does not load."""
    try:
        tol.load_module(path)
    except tol.UndefinedSymbolError as error:
        missing: tuple[str, ...] = error.symbols
        return missing
    except tol.DuplicateSymbolError as error:
        return error.symbols
    except tol.LinkError as error:
        return str(error)
    except (tol.ObjectFormatError, tol.FrozenCacheError) as error:
        as_value_or_lookup_error: ValueError | LookupError = error
        return str(as_value_or_lookup_error)
    except (tol.FunctionNotFoundError, tol.SessionClosedError):
        return "gone"
    except tol.ObjectLoaderError as error:
        as_runtime_error: RuntimeError = error
        return str(as_runtime_error)
    return ()
