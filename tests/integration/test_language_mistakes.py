"""Typical mistakes: the message stands at the character that is wrong, and says what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterator

import conftest
import pytest
import world
from language import Bench

pytestmark = [pytest.mark.userns, pytest.mark.registry]

# A line behind FROM, in which » « stand around what is marked, -> words of message and hint.
MISTAKES = {
    "»RUM« make": "did you mean RUN",
    "COPY »--chwon=a« f /": "did you mean --chown",
    "COPY »--form=one« f /": "did you mean --from",
    "RUN --mount=type=»bnd«,target=/x true": "did you mean bind",
    "RUN --mount=»typ«=bind,target=/x true": "did you mean type",
    "RUN --mount=type=bind,»taget«=/x true": "did you mean target",
    "RUN --mount=type=cache,target=/c,sharing=»lock« true": "did you mean locked",
    "RUN --mount=type=tmpfs,target=/t,size=»big« true": "is no size",
    "RUN »--netwrok=none« true": "did you mean --network",
    "RUN --network=»hots« true": "did you mean host",
    'ENV A=»"«open': "closing double quote",
    "ENV A=»'«open": "closing single quote",
    "ENV A=»${B«": "closing }",
    "ENV A=1 »B«": "no = in B",
    "ENV A» «": "needs a value",
    "RUN »<<EOF«\ntext": "the heredoc EOF does not end",
    "COPY »<<EOF« /f\ntext": "the heredoc EOF does not end",
    "COPY --from=»3« f /": "there is no stage 3",
    "COPY --from=»oen« f /": "did you mean the stage one",
    "COPY --from=»later« f /": "above stage",
    "COPY --from=»two« f /": "two",
    "FROM @BASE@ »AZ« three": "did you mean AS",
    "FROM @BASE@ AS» «": "name behind AS is missing",
    "FROM @BASE@ AS »9x«": "a name begins with a letter",
    "COPY »fiel« /": 'did you mean "file"',
    "COPY file» «": "COPY needs a destination",
    "COPY --chmod=»99« file /": "is no octal mode",
    "COPY --chmod=»u+q« file /": "write an octal number",
    "COPY --chown=»nosuch« file /": "no user",
    "ADD --checksum=»sha256:12« http://127.0.0.1:1/y /": "64 hexadecimal digits",
    "ADD »http://[bad« /": "is no URL",
    "ADD »../x« /": "in the build context",
    "EXPOSE »99999«": "above 65535",
    "EXPOSE »http«": "write PORT",
    "STOPSIGNAL »SIGFOO«": "write a name such as SIGTERM",
    "HEALTHCHECK --interval=»5« CMD x": "a number and its unit",
    "HEALTHCHECK »CDM« x": "did you mean CMD",
    "SHELL »/bin/sh«": "JSON array",
    "ONBUILD »FROM« x": "cannot be a trigger",
    "ONBUILD »ONBUILD« RUN x": "cannot be a trigger",
    "VOLUME []» «": "VOLUME needs a path",
    "WORKDIR» «": "WORKDIR needs a path",
}


@pytest.fixture(scope="module")
def bench(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    work = tmp_path_factory.mktemp("mistakes")
    tool = world.Tool(work / "storage", work)
    tool("pull", base_image).ok()
    yield Bench(tool, base_image, work)
    conftest.remove_tree(work / "storage")


def shown(error: str) -> tuple[str, str]:
    """The source line of a message, and what its caret marks."""
    lines = error.splitlines()
    number = next(n for n, line in enumerate(lines) if re.fullmatch(r" +\^+", line))
    marker = lines[number]
    source, start = lines[number - 1], marker.index("^")
    return source[7:], source[start : len(marker)] or " "


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_shown_at_its_place_with_what_was_meant(line: str, bench: Bench) -> None:
    marked = re.search("»(.*?)«", line)
    assert marked
    wrong = re.sub("» «|[»«]", "", line)
    text = f"FROM @BASE@ AS one\nFROM @BASE@ AS two\n{wrong}\n"
    if "later" in wrong:
        text += "FROM @BASE@ AS later\nFROM two\n"
    env = {"CH_REGY_DEFAULT_HOST": "127.0.0.1", "CH_REGY_DEFAULT_PORT": "1"}  # nobody is there
    done = bench.build(text, {"file": "", "f": ""}, env=env)
    assert done.code == 1
    assert done.fault().startswith("Dockerfile:3: "), done.err
    assert MISTAKES[line] in done.err
    source, caret = shown(done.err)
    assert source == wrong.splitlines()[0].replace("@BASE@", bench.base)
    assert caret == marked[1]


def test_stages_that_need_each_other_are_named(bench: Bench) -> None:
    text = "FROM @BASE@ AS one\nFROM two\n"
    done = bench.build(text, env={"CH_REGY_DEFAULT_HOST": "127.0.0.1:1"})
    assert done.fault().startswith("Dockerfile:2: ")


@pytest.mark.parametrize(
    "line",
    ["COPY nomatch*.txt /d/", "ADD *.txt no* /d/", "COPY --parents d/no*/f /d/",
     "COPY --from=one /etc/no* /d/", "COPY --exclude=f* f* /d/"],
)  # fmt: skip
def test_a_wildcard_that_matches_nothing_is_told_with_its_place(line: str, bench: Bench) -> None:
    """BuildKit builds it; whoever misspelt the pattern wants to know nevertheless."""
    text = f"FROM @BASE@ AS one\nFROM one\n{line}\nRUN ! test -e /d/f\n"
    done = bench.build(text, {"file": "", "d/f": ""}, "--no-cache").ok()
    warning = next(row for row in done.err.splitlines() if row.startswith("warning: "))
    assert warning.startswith(f"warning: Dockerfile:3: {line.split()[0]}: nothing in the ")
    assert "matches" in warning


def test_what_a_line_continues_is_searched_too(bench: Bench) -> None:
    done = bench.build("FROM @BASE@\nCOPY file \\\n  other \\\n  fiel \\\n  /d/\n", {"file": ""})
    assert done.fault().startswith("Dockerfile:3: ")
    assert shown(done.err) == ("  other \\", "other")
