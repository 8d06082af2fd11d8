"""Endpoints about files: ``/file``, ``/list_directory``, ``/setup/upload``. Blocking work goes to threads here."""

import asyncio
import os
import shutil
import time
from pathlib import Path
from typing import Any, BinaryIO, Final

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from osworld_guest.replies import BAD_REQUEST, NOT_FOUND, error_reply, json_body, text_field

TREE_MAX_ENTRIES: Final = 200_000
"""A guess with room; past it a folder's entry says that it was cut."""


REST_S: Final = 0.5
"""A file that was written more recently than this may be half written: a program that saves it is waited for."""
REST_DEADLINE_S: Final = 3.0
"""How long. Logs that are always written are read as they are."""
WHOLE_MAX_BYTES: Final = 64 << 20
"""A larger file is sent as it is read."""


def expand(path: str) -> str:
    """Return `path` with ``~`` and variables replaced."""
    return os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111 - variables come after the home


def existing_file(path: str) -> Path | None:
    """Return the file that `path` names once it is expanded, None where there is none."""
    file = Path(expand(path))
    return file if file.is_file() else None


async def get_file(request: Request) -> Response:
    """Return a file's content."""
    async with request.form() as form:
        given = form.get("file_path")
    if not isinstance(given, str):
        return error_reply("file_path is required", BAD_REQUEST)
    path = existing_file(given)
    if path is None:
        return error_reply("File not found", NOT_FOUND)
    if not os.access(path, os.R_OK):
        return error_reply(f"{path} cannot be read")
    reply = FileResponse(path, filename=path.name)
    content = await asyncio.to_thread(_at_rest, path)
    if content is None:
        return reply
    return Response(
        content, media_type=reply.media_type, headers={"content-disposition": reply.headers["content-disposition"]}
    )


def _at_rest(path: Path) -> bytes | None:
    """Return the content of a file that nobody writes any more, None where it is large, gone, or written on and on."""
    end = time.monotonic() + REST_DEADLINE_S
    try:
        while time.monotonic() < end:
            before = path.stat()
            if before.st_size > WHOLE_MAX_BYTES:
                return None
            # A clock that was stepped back leaves files from the future.
            if not 0 <= time.time() - before.st_mtime < REST_S:
                content, after = path.read_bytes(), path.stat()
                is_same = (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
                if is_same and len(content) == before.st_size:
                    return content
            time.sleep(REST_S / 3)
    except OSError:
        return None
    return None


async def upload(request: Request) -> Response:
    """Write the file in the request. Its folder is made where it is missing, as tasks expect of a fresh home."""
    async with request.form() as form:
        given, data = form.get("file_path"), form.get("file_data")
        if not isinstance(given, str) or not isinstance(data, UploadFile):
            return error_reply("file_path and file_data are required", BAD_REQUEST)
        try:
            await asyncio.to_thread(_write, Path(expand(given)), data.file)
        except OSError as error:
            return error_reply(f"{given} cannot be written: {error.strerror}")
    return PlainTextResponse("File Uploaded")


def _write(path: Path, source: BinaryIO) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


async def list_directory(request: Request) -> Response:
    """Return a folder's tree."""
    path = text_field(await json_body(request), "path")
    tree = await asyncio.to_thread(_tree_of, path)
    if tree is None:
        return error_reply("The provided path is not a directory", BAD_REQUEST)
    return JSONResponse({"directory_tree": tree})


def _tree_of(path: str) -> dict[str, Any] | None:
    return _tree(path, [TREE_MAX_ENTRIES]) if Path(path).is_dir() else None


def _tree(folder: str, left: list[int]) -> dict[str, Any]:
    children: list[dict[str, Any]] = []
    tree = {"type": "directory", "name": Path(folder).name, "children": children}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                left[0] -= 1
                if left[0] < 0:
                    return tree | {"error": f"cut after {TREE_MAX_ENTRIES} entries"}
                if entry.is_dir(follow_symlinks=False):
                    children.append(_tree(entry.path, left))
                else:
                    children.append({"type": "file", "name": entry.name})
    except OSError as error:
        return {"error": str(error)}
    return tree


ROUTES: Final = [
    Route("/file", get_file, methods=["POST"]),
    Route("/list_directory", list_directory, methods=["POST"]),
    Route("/setup/upload", upload, methods=["POST"]),
]
