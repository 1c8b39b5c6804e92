"""What set*id calls do to an emulated identity (credentials(7), capabilities(7))."""

from __future__ import annotations

import pytest

from ch_image.sandbox.identity import EINVAL, EPERM, UNSET, Ids, apply_set, ids_of

ROOT = ids_of(0, 0, (0,))
USER = ids_of(1000, 1000, ())
SET_USER_ID = Ids((1000, 0, 0, 0), (1000,) * 4, (1000,))  # such as a running sudo

UIDS = {
    "root becomes another for good": (ROOT, "setuid", [33], (33, 33, 33, 33)),
    "a user stays": (USER, "setuid", [1000], (1000,) * 4),
    "a user becomes nobody else": (USER, "setuid", [0], EPERM),
    "sudo becomes root wholly": (SET_USER_ID, "setuid", [0], (0, 0, 0, 0)),
    "seteuid keeps a way back": (ROOT, "setresuid", [UNSET, 33, UNSET], (0, 33, 0, 33)),
    "and back": (Ids((0, 33, 0, 33), (0,) * 4, ()), "setresuid", [UNSET, 0, UNSET], (0, 0, 0, 0)),
    "setreuid sets the saved one too": (ROOT, "setreuid", [33, 33], (33, 33, 33, 33)),
    "setreuid of the effective one alone": (ROOT, "setreuid", [UNSET, 33], (0, 33, 33, 33)),
    "a user cannot take a foreign one": (USER, "setreuid", [UNSET, 5], EPERM),
    "-1 is no user": (ROOT, "setuid", [UNSET], EINVAL),
    "setfsuid": (ROOT, "setfsuid", [7], (0, 0, 0, 7)),
    "setfsuid without right changes nothing": (USER, "setfsuid", [7], (1000,) * 4),
}


@pytest.mark.parametrize(("ids", "call", "args", "expected"), UIDS.values(), ids=UIDS.keys())
def test_user_ids(ids: Ids, call: str, args: list[int], expected: object) -> None:
    found = apply_set(call, ids, [*args, 0, 0][:3])
    assert (found if isinstance(found, int) else found.uids) == expected


def test_group_ids_need_the_privilege_of_the_effective_user() -> None:
    changed = apply_set("setresgid", ROOT, [5, 5, 5])
    assert isinstance(changed, Ids)
    assert (changed.gids, changed.uids) == ((5, 5, 5, 5), (0, 0, 0, 0))
    assert apply_set("setgid", USER, [5, 0, 0]) == EPERM


def test_capabilities_go_with_the_last_zero_unless_kept() -> None:
    dropped = apply_set("setuid", ROOT, [6, 0, 0])
    assert isinstance(dropped, Ids)
    assert not dropped.privileged
    kept = apply_set("setresuid", ROOT.with_keep(True), [6, 6, 6])
    assert isinstance(kept, Ids)
    assert kept.privileged, "setpriv sets its group after its user"
    assert not kept.after_exec(kept.uids, kept.gids).privileged
