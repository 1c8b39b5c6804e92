"""OCI layouts and archives of images for ch-run: unpacked into storage at their first run.

Their layers lie in the layer store without a name, as those of a deleted image do, and are found
again by their digests; ``build-cache --gc`` takes them away. What is noted of them makes later
starts as fast as those of an image in storage. When many start at once, one unpacks.
"""

from __future__ import annotations

import fcntl
import json
import os

from ch_image.cli.run_image import Guest, StoredGuest, trees_of
from ch_image.cli.run_memo import Memo
from ch_image.errors import ChError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_INDEX = "index.json"


def layout_guest(kind: str, name: str, storage: str, env: Mapping[str, str], verbose: int) -> Guest:
    """The image in the layout or archive ``name`` (``PATH[:TAG]``). Raises ChError, OSError."""
    from ch_image.formats.layouts import split
    from ch_image.storage.root import open_root

    path, tag = split(name)
    path = os.path.realpath(path)
    record = f"{path}/{_INDEX}" if kind == "oci" else path
    memo = Memo(storage, f"{path}:{tag}", env)
    found = memo.recall()
    if found is None:
        open_root(storage)
        with open(f"{storage}/running/.layouts", "w", encoding="ascii") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            found = memo.recall()
            if found is None:
                found = _brought(kind, name, storage, env, verbose)
                memo.keep(record, *found)
    return StoredGuest(storage, *found)


def _brought(
    kind: str, name: str, storage: str, env: Mapping[str, str], verbose: int
) -> tuple[list[str], list[str]]:
    """Trees and variables. A process of its own does it, for it needs a namespace of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            answer = _answer(kind, name, storage, env, verbose)
            with open(writer, "w", encoding="ascii") as out:
                json.dump(answer, out)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, encoding="ascii") as file:
        text = file.read()
    os.waitpid(child, 0)
    if not text:
        raise ChError(f"the image could not be unpacked into storage: {name}")
    answer = json.loads(text)
    if "fault" in answer:
        raise ChError(answer["fault"], hint=answer["hint"])
    return answer["trees"], answer["env"]


def _answer(
    kind: str, name: str, path: str, env: Mapping[str, str], verbose: int
) -> dict[str, object]:
    from ch_image.cli import options
    from ch_image.cli.convert import OPTIONS
    from ch_image.cli.importing import place
    from ch_image.cli.log import Log
    from ch_image.cli.session import Session
    from ch_image.formats.base import layered
    from ch_image.storage.faults import storage_error

    parsed, _ = options.parse(["-s", path, *(["-v"] if verbose else ["-q"])], OPTIONS)
    session = Session(parsed, env, Log(env))
    try:
        session.enter(needed=True)
        with session.locked():
            image = layered(kind).bring(name, place(session))
            session.storage.sync()
            trees = trees_of(session.storage, image.layers)
        variables = [item for item in image.config.config.env if "=" in item]
        return {"trees": trees, "env": variables}
    except OSError as error:
        fault: ChError = storage_error("unpack the image", error)
    except ChError as error:
        fault = error
    finally:
        session.close()
    return {"fault": str(fault), "hint": fault.hint}
