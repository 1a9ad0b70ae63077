# SPDX-License-Identifier: Apache-2.0
"""All kinds, in the order of the table. A new one goes into a list, or a list of its own."""

from __future__ import annotations

import kinds_of_flags
import kinds_of_linking
import kinds_of_relocations
import kinds_of_sections
import kinds_of_shapes
import kinds_of_symbols

KINDS = [
    *kinds_of_flags.KINDS,
    *kinds_of_sections.KINDS,
    *kinds_of_shapes.KINDS,
    *kinds_of_symbols.KINDS,
    *kinds_of_relocations.KINDS,
    *kinds_of_linking.KINDS,
]
