# SPDX-License-Identifier: Apache-2.0
"""All kinds, in the order of the table. A new one goes into a list, or a list of its own."""

from __future__ import annotations

import kinds_of_aarch64_relocations
import kinds_of_flags
import kinds_of_linking
import kinds_of_relocations
import kinds_of_sections
import kinds_of_shapes
import kinds_of_symbols

_ALL = [
    *kinds_of_flags.KINDS,
    *kinds_of_sections.KINDS,
    *kinds_of_shapes.KINDS,
    *kinds_of_symbols.KINDS,
    *kinds_of_relocations.KINDS,
    *kinds_of_aarch64_relocations.KINDS,
    *kinds_of_linking.KINDS,
]
KINDS = [kind for kind in _ALL if kind.exists]
# Titles of which there is no kind for this processor.
ABSENT = list(dict.fromkeys(kind.title for kind in _ALL))
for _title in {kind.title for kind in KINDS}:
    ABSENT.remove(_title)
