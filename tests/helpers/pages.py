# SPDX-License-Identifier: Apache-2.0
"""Pages of Markdown: what their fenced blocks hold, and what comes of pasting them.

A block that begins with a comment which is a file's name is that file. The other Python of a page
is run from top to bottom in one namespace, statement by statement. Where a statement is followed by
``# literal``, or ``# literal: why``, that is its value, or what it prints.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from folders import ROOT

FILE = re.compile(r"(?:#|//) ([\w.-]+\.\w+)\n")


class Block(NamedTuple):
    """A fenced block: the language, the text, and the heading that it is under."""

    language: str
    text: str
    heading: str

    @property
    def file(self) -> str | None:
        """The name of the file that it is."""
        found = FILE.match(self.text)
        return found[1] if found else None


class Page:
    """A page, by its path from the project's root."""

    def __init__(self, name: str) -> None:
        self.path = ROOT / name
        self.needed = pytest.mark.skipif(not self.path.is_file(), reason=f"{name} is not here")

    @property
    def text(self) -> str:
        """The whole page."""
        return self.path.read_text()

    def blocks(self, language: str, *, under: str | None = None) -> list[str]:
        """Return the blocks in one language that are no files, in order."""
        return [
            block.text
            for block in self._blocks()
            if block.language == language
            and block.file is None
            and (under is None or block.heading == under)
        ]

    def links(self) -> list[str]:
        """Return what its links lead to."""
        inline = re.findall(
            r"\]\((https?:[^)]+|[\w./#-]+)\)",
            re.sub(r"`.*?`|^```.*?^```", "", self.text, flags=re.S | re.M),
        )
        return inline + re.findall(r"^\[[\w-]+\]: (\S+)$", self.text, re.MULTILINE)

    def _blocks(self) -> list[Block]:
        found, heading = [], ""
        pattern = r"^```(\w+)\n(.*?)^```$|^#+ (.*?)$"
        for match in re.finditer(pattern, self.text, re.DOTALL | re.MULTILINE):
            if match[3] is not None:
                heading = match[3]
            else:
                found.append(Block(match[1], match[2], heading))
        return found

    def write_files(self, folder: Path) -> None:
        """Write the blocks that are files into a folder."""
        for block in self._blocks():
            if block.file is not None:
                (folder / block.file).write_text(block.text)

    def run(self, names: dict[str, Any], *, under: str | None = None) -> int:
        """Run the Python of the page, or of one heading, and return how many values were right."""
        return sum(_run(block, names) for block in self.blocks("python", under=under))


def _run(block: str, names: dict[str, Any]) -> int:
    compared = 0
    lines = block.encode().splitlines()
    for statement in ast.parse(block).body:
        assert statement.end_lineno is not None
        after = lines[statement.end_lineno - 1][statement.end_col_offset :].decode()
        is_expression = isinstance(statement, ast.Expr)
        text = ast.unparse(statement)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if is_expression:
                value = eval(text, names)
            else:
                exec(compile(ast.Module([statement], []), "page", "exec"), names)
        if is_expression and (literal := _literal(after)) is not None:
            if text.startswith("print("):
                assert printed.getvalue().rstrip() == str(literal.value), text
            else:
                assert value == literal.value, text
            compared += 1
    return compared


class Literal(NamedTuple):
    """A value that is written in a comment."""

    value: Any


def _literal(comment: str) -> Literal | None:
    """Return the value that a comment after a statement begins with, if it does."""
    comment = comment.strip().lstrip("# ")
    for text in (comment, comment.split(":")[0]):
        with contextlib.suppress(SyntaxError, ValueError):
            return Literal(ast.literal_eval(text))
    return None


def run_command(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a page in a shell, with this Python's programs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path, **environment},
    )
