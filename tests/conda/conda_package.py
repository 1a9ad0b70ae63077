# SPDX-License-Identifier: Apache-2.0
"""Write .conda packages into the stand-in channel."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard


@dataclass(frozen=True)
class Platform:
    """A platform of the channel, and where Debian's packages for it were unpacked."""

    subdir: str
    processor: str
    debs: Path

    @property
    def library_folders(self) -> list[Path]:
        """Where Debian has the platform's shared libraries, unpacked or on this machine."""
        folders = [Path(f"{folder}/{self.processor}-linux-gnu") for folder in ("/usr/lib", "/lib")]
        return [*(self.debs / folder.relative_to("/") for folder in folders), *folders]

    def copy_libraries(self, names: Iterable[str], target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            candidates = (folder / name for folder in self.library_folders)
            shutil.copy(next(path for path in candidates if path.exists()), target / name)


class Channel:
    """A folder of packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def package(
        self,
        name: str,
        version: str,
        build: str = "0",
        *,
        subdir: str,
        depends: Iterable[str] = (),
        run_exports: dict[str, list[str]] | None = None,
        placeholder: str | None = None,
    ) -> Iterator[Path]:
        """Yield a folder, and make a package of what the caller has put there.

        Occurrences of `placeholder` in its text files become the path of the environment.
        """
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            yield root
            files = sorted(p for p in root.rglob("*") if p.is_symlink() or not p.is_dir())
            names = [path.relative_to(root).as_posix() for path in files]
            paths = [
                _path_entry(path, file, placeholder)
                for path, file in zip(files, names, strict=True)
            ]
            index: dict[str, object] = {
                "name": name,
                "version": version,
                "build": build,
                "build_number": 0,
                "depends": list(depends),
                "constrains": [],
                "subdir": subdir,
                "license": "LicenseRef-stand-in",
            }
            if subdir == "noarch":
                index["noarch"] = "generic"
            info = {
                "index.json": index,
                "paths.json": {"paths": paths, "paths_version": 1},
                "run_exports.json": run_exports or {},
                "about.json": {"summary": f"Stand-in for the package {name}"},
            }
            for file, data in info.items():
                (root / "info").mkdir(exist_ok=True)
                (root / "info" / file).write_text(json.dumps(data))
            stem = f"{name}-{version}-{build}"
            (self.folder / subdir).mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(self.folder / subdir / f"{stem}.conda", "w") as archive:
                archive.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
                archive.writestr(f"pkg-{stem}.tar.zst", _tar(root, names))
                archive.writestr(
                    f"info-{stem}.tar.zst", _tar(root, [f"info/{file}" for file in info])
                )


def _path_entry(path: Path, file: str, placeholder: str | None) -> dict[str, object]:
    content = path.read_bytes() if path.exists() else b""
    entry: dict[str, object] = {
        "_path": file,
        "path_type": "softlink" if path.is_symlink() else "hardlink",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_in_bytes": len(content),
    }
    if placeholder and placeholder.encode() in content and b"\0" not in content:
        entry |= {"prefix_placeholder": placeholder, "file_mode": "text"}
    return entry


def _tar(root: Path, names: Iterable[str]) -> bytes:
    output = io.BytesIO()
    compressor = zstandard.ZstdCompressor(level=1, threads=-1)
    with (
        compressor.stream_writer(output, closefd=False) as stream,
        tarfile.open(fileobj=stream, mode="w|") as archive,
    ):
        for name in names:
            archive.add(root / name, name)
    return output.getvalue()
