"""Cache keys by meaning, and why one is not another. Pure.

Signatures:

    base_key(what, platform) -> StepKey
    step_key(folded, parent=..., platform=..., content=..., options=...) -> StepKey
    name_files(files) -> inputs for the record only       explain(previous, inputs) -> [str]

A key is the sha256 of the canonical JSON of its *inputs*: named in the user's words, each a digest.
Values never stand in inputs, only digests of them salted with the parent's key and their name, so
a record tells no build argument; secrets and proxies are no inputs at all.

    key = step_key(folded, parent=chain, platform=str(platform),
                   content={"src/": "sha256:..."}, options={"--force": "seccomp"})
    record = cache.get(key.key)          # CacheRecord.parent = key.slot, .inputs = key.inputs
    chain = key.chain                    # the parent of the next step
"""

from __future__ import annotations

from collections.abc import Mapping

from ch_image.build.effects import RunEffect
from ch_image.build.state import Folded
from ch_image.model.oci import canonical_json
from ch_image.model.sha256 import sha256
from ch_image.typed import NamedTuple, NewType

CacheKey = NewType("CacheKey", str)  # 64 lower-case hexadecimal digits

FORMAT = 1  # rises whenever the same meaning gets other inputs
# What cannot change what any later step does: such a step has a key, but is nobody's parent.
_PASSIVE = frozenset({
    "CMD", "ENTRYPOINT", "EXPOSE", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD", "STOPSIGNAL",
    "VOLUME",
})  # fmt: skip
_FILE = "file "  # inputs of a record that explain a content digest and are not in the key


class StepKey(NamedTuple):
    """The key of a step, what it is made of, and the parent for the step that follows.

    ``slot`` is equal for steps of one kind after the same parent: who finds a record of the same
    slot can say what changed. It is the parent, a dash, and letters, digits and dashes.
    """

    key: CacheKey
    chain: CacheKey
    slot: str
    inputs: Mapping[str, str]


def base_key(what: str, platform: str) -> StepKey:
    """The key of a FROM: ``what`` is the digest of an image or tree, or ``scratch``.

    A FROM of an earlier stage has no key of its own: it goes on with that stage's chain.
    """
    inputs = {"base image": _digest(["base", what]), "--platform": _digest(platform)}
    return _made("", "FROM", inputs)


def step_key(
    folded: Folded,
    *,
    parent: CacheKey,
    platform: str,
    content: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> StepKey:
    """The key of a step that was folded in the state of its stage.

    ``content`` has the digests of what the step reads, by the name the user gave it: sources of
    COPY, mounts of RUN. ``options`` are further things a RUN depends on, such as the force mode,
    by the name of their option; other steps don't look at them.
    """
    inputs = {name: _salted(parent, name, part) for name, part in folded.parts.items()}
    inputs["--platform"] = _digest(platform)
    for name, digest in (content or {}).items():
        inputs[f"{name} content"] = digest
    if isinstance(folded.effect, RunEffect):
        inputs |= {name: _salted(parent, name, value) for name, value in (options or {}).items()}
    if folded.kind in _PASSIVE:
        # Any number of these have one parent, so that the first part tells them apart.
        made = _made(parent, folded.kind, inputs)
        name = _digest(next(iter(folded.parts), ""))[:8]
        return made._replace(chain=parent, slot=f"{made.slot}-{name}")
    return _made(parent, folded.kind, inputs)


def _made(parent: str, kind: str, inputs: Mapping[str, str]) -> StepKey:
    meaning = {"format": FORMAT, "parent": parent, "kind": kind, "inputs": dict(inputs)}
    key = CacheKey(sha256(canonical_json(meaning)).hexdigest())
    return StepKey(key, key, f"{parent}-{kind}", inputs)


def _digest(value: object) -> str:
    return sha256(canonical_json(value)).hexdigest()[:32]


def _salted(parent: str, name: str, value: object) -> str:
    return _digest([parent, name, value])


MOST_FILES = 256  # single files that are named in a record


def file_value(mode: int, digest: bytes) -> str:
    """What stands for a file in `name_files`, so that a change of its mode alone can be told."""
    return f"{mode:o} {digest.hex()[:16]}"


def name_files(files: Mapping[str, str], limit: int = MOST_FILES) -> dict[str, str]:
    """Inputs that let a later miss name the file: path -> digest of content, mode and type.

    They are for the record of a step, not for its key. Where there are more than ``limit``
    files, whole directories stand for what is in them.
    """
    depth = max((path.count("/") for path in files), default=0)
    groups = dict(files)
    while len(groups) > limit and depth > 0:
        groups = _grouped(files, depth)
        depth -= 1
    if len(groups) > limit:
        return {}
    return {_FILE + path: digest for path, digest in groups.items()}


def _grouped(files: Mapping[str, str], depth: int) -> dict[str, str]:
    """One digest for each directory that lies ``depth`` components deep."""
    members: dict[str, list[tuple[str, str]]] = {}
    for path, digest in sorted(files.items()):
        parts = path.split("/")
        name = path if len(parts) <= depth else "/".join(parts[:depth]) + "/"
        members.setdefault(name, []).append((path, digest))
    return {
        name: found[0][1] if found[0][0] == name else _digest(found)
        for name, found in members.items()
    }


def explain(previous: Mapping[str, str], inputs: Mapping[str, str]) -> list[str]:
    """What makes ``inputs`` other than the ``previous`` ones, in the users' words.

    Both are of the same slot. The files of `name_files` count when both have some.
    """
    names = [name for name in {**previous, **inputs} if previous.get(name) != inputs.get(name)]
    if not all(any(name.startswith(_FILE) for name in side) for side in (previous, inputs)):
        names = [name for name in names if not name.startswith(_FILE)]
    files = any(name.startswith(_FILE) for name in names)
    out = []
    for name in sorted(names, key=lambda name: (_rank(name), name)):
        if files and name.endswith(" content"):
            continue  # the files say it better
        path = name.removeprefix(_FILE)
        if name not in previous:
            out.append(f"{path} added")
        elif name not in inputs:
            out.append(f"{path} removed")
        elif path != name:
            out.append(f"{path} {_aspect(previous[name], inputs[name])} changed")
        else:
            out.append(f"{path} changed")
    return out


def _aspect(before: str, after: str) -> str:
    """What differs between two values of `file_value`, or of groups of them."""
    (old_mode, _, old), (mode, _, new) = before.partition(" "), after.partition(" ")
    return "mode" if old and old == new and old_mode != mode else "content"


def _rank(name: str) -> int:
    """The instruction itself first, then what it reads, then what it sees."""
    if name.startswith(("RUN", "COPY", "ADD", "<<")):
        return 0
    return 1 if name.startswith(_FILE) or name.endswith(" content") else 2
