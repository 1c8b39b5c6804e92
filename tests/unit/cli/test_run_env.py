"""ch-run's environment, rule by rule; the tables are those its users' scripts rely on."""

from __future__ import annotations

import pytest

from ch_image.cli.run_env import RUNNING, adjusted, assignment, edited, expanded
from ch_image.errors import ChError

ADJUSTED = {
    "PATH gets /bin": ({"PATH": "/usr/bin"}, "/usr/bin:/bin"),
    "PATH has /bin": ({"PATH": "/bin:/usr/bin"}, "/bin:/usr/bin"),
    "PATH has only something like /bin": ({"PATH": "/usr/bin:/bin2"}, "/usr/bin:/bin2:/bin"),
    "an empty PATH": ({"PATH": ""}, "/bin"),
    "no PATH": ({}, None),
}


@pytest.mark.parametrize(("host", "path"), ADJUSTED.values(), ids=ADJUSTED.keys())
def test_path_leads_to_bin_where_there_is_one(host: dict[str, str], path: str | None) -> None:
    assert adjusted(host, "/root").get("PATH") == path


def test_home_is_the_images_and_tmpdir_is_dropped() -> None:
    env = adjusted({"HOME": "/home/me", "TMPDIR": "/scratch", "PATH": "/bin", "A": "b"}, "/root")
    assert env == {"HOME": "/root", "PATH": "/bin", "A": "b"}


ASSIGNMENTS = {
    "FOO=bar": ("FOO", "bar"),
    "FOO=bar=baz": ("FOO", "bar=baz"),
    "FLAGS=-march=foo -mtune=bar": ("FLAGS", "-march=foo -mtune=bar"),
    "FLAGS='-march=foo -mtune=bar'": ("FLAGS", "-march=foo -mtune=bar"),
    "'BAZ=qux'": ("BAZ", "qux"),
    "FOO=": ("FOO", ""),
    "FOO=''": ("FOO", ""),
    "FOO=''''": ("FOO", "''"),
    "FOO='": ("FOO", "'"),
    'FOO="bar"': ("FOO", '"bar"'),
    "FOO=bar # baz": ("FOO", "bar # baz"),
    "FOO=bar\\tbaz": ("FOO", "bar\\tbaz"),
    " FOO=bar": (" FOO", "bar"),
    "FOO= bar": ("FOO", " bar"),
    "$FOO=bar": ("$FOO", "bar"),
}


@pytest.mark.parametrize(("text", "meant"), ASSIGNMENTS.items(), ids=ASSIGNMENTS.keys())
def test_an_assignment_means(text: str, meant: tuple[str, str]) -> None:
    assert assignment(text) == meant


@pytest.mark.parametrize(
    ("text", "why"), [("FOO bar", "no delimiter"), ("=bar", "empty name"), ("'=a'", "empty name")]
)
def test_what_is_no_assignment_is_refused_with_its_place(text: str, why: str) -> None:
    with pytest.raises(ChError, match=f"variable: {why}: file:3: "):
        edited({}, [("set", ["A=1", "", text], "file")])


EXPANSIONS = {
    "$SET": "foo",
    "bar:$SET": "bar:foo",
    "$SET:bar": "foo:bar",
    "bar:$SET:baz": "bar:foo:baz",
    ":$SET": ":foo",
    "::$SET": "::foo",
    "$SET:": "foo:",
    "$SET::": "foo::",
    "bar::$SET": "bar::foo",
    "bar:$": "bar:$",
    "bar:*": "bar:*",
    "bar$SET": "bar$SET",
    "": "",
    ":": ":",
    ":bar:baz::": ":bar:baz::",
    "$UNSET": "",
    "foo:$UNSET": "foo",
    "foo:$EMPTY": "foo",
    "foo:$UNSET:": "foo:",
    "$UNSET:foo": "foo",
    ":$UNSET:foo": ":foo",
    "foo:$UNSET:$EMPTY": "foo",
    "foo:$UNSET:$EMPTY:": "foo:",
    "$UNSET:$EMPTY:foo": "foo",
    "foo:$UNSET:bar": "foo:bar",
    "foo:$UNSET:$EMPTY:bar": "foo:bar",
    ":$UNSET": "",
    "::$UNSET": ":",
    "$UNSET:": "",
    "$UNSET::": ":",
    "$BAR baz:qux": "qux",
    "$TWICE": "$SET",
}


@pytest.mark.parametrize(("value", "wanted"), EXPANSIONS.items(), ids=EXPANSIONS.keys())
def test_search_paths_are_expanded_once_and_leave_no_empty_items(value: str, wanted: str) -> None:
    env = {"SET": "foo", "EMPTY": "", "BAR": "bar", "TWICE": "$SET"}
    assert expanded(value, env) == wanted


def test_edits_happen_in_their_order() -> None:
    env = {"a1": "z", "a2": "y"}
    edits = [
        ("unset", ["a1"], ""),
        ("set", ["b1=w", "b2=v"], ""),
        ("unset", ["b2"], ""),
        ("set", ["c1=$b1:$a1", "a2=u"], ""),
    ]
    assert edited(env, edits) == {"a2": "u", "b1": "w", "c1": "w", "CH_RUNNING": RUNNING}


def test_expansion_stops_where_the_option_stands() -> None:
    edits = [("set", ["A=$X"], ""), ("no-expand", [], ""), ("set", ["B=$X"], "")]
    env = edited({"X": "x"}, edits)
    assert (env["A"], env["B"]) == ("x", "$X")


def test_the_mark_of_a_container_survives_everything() -> None:
    assert edited({"A": "b", "CH_RUNNING": "no"}, [("unset", ["*"], "")]) == {"CH_RUNNING": RUNNING}


def test_an_empty_pattern_is_refused() -> None:
    with pytest.raises(ChError, match="--unset-env"):
        edited({}, [("unset", [""], "")])
