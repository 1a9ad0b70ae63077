# SPDX-License-Identifier: Apache-2.0
"""What sessions, dylibs and loaders have in common: each stands for something that is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class Handle:
    """What stands for something loaded, of which there is one: its copies are itself.

    Leaving its ``with`` block closes it.
    """

    __slots__ = ()

    def close(self, timeout: float | None = None) -> None:
        """Unload it."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def __copy__(self) -> Self:
        """Return the object itself."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the object itself."""
        return self
