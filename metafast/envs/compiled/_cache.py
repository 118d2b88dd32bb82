"""Machine code on disk, in files named by the hash of everything that it depends on."""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["load", "store"]

_MAGIC = b"metafast compiled environment 1\n"


def folder() -> Path:
    """``METAFAST_CACHE_DIR``, or the user's cache folder."""
    chosen = os.environ.get("METAFAST_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "metafast"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metafast"


def load(key: str) -> tuple[dict[str, Any], bytes] | None:
    """What was stored under `key`, or None where there is nothing or the file is damaged."""
    try:
        content = (folder() / f"{key}.env").read_bytes()
    except (OSError, RuntimeError):
        return None
    if not content.startswith(_MAGIC):
        return None
    digest, body = content[len(_MAGIC) :][:64], content[len(_MAGIC) + 64 :]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    header, _, machine_code = body.partition(b"\n")
    return json.loads(header), machine_code


def store(key: str, header: dict[str, Any], machine_code: bytes) -> None:
    """Write the file in one piece, or not at all where the folder cannot be written to."""
    body = json.dumps(header).encode() + b"\n" + machine_code
    content = _MAGIC + hashlib.sha256(body).hexdigest().encode() + body
    # RuntimeError: there is no home folder.
    with contextlib.suppress(OSError, RuntimeError):
        folder().mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder(), prefix=".", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(temporary, folder() / f"{key}.env")
        except BaseException:
            os.unlink(temporary)
            raise
