"""The history of an image: the words of BuildKit, and no value of a build argument."""

from __future__ import annotations

import pytest
from folding import state_of

from ch_image.build.state import start_image
from ch_image.model.oci import History, ImageConfig
from ch_image.model.platforms import Platform

# text, created_by of the last line, whether it has a layer
LINES: dict[str, tuple[str, str, bool]] = {
    "RUN shell form": ("RUN make  -j", "RUN /bin/sh -c make  -j # buildkit", True),
    "RUN exec form": ('RUN ["make", "-j 2"]', "RUN make -j 2 # buildkit", True),
    "RUN leaves variables": ("ENV a=1\nRUN echo $a", "RUN /bin/sh -c echo $a # buildkit", True),
    "RUN over lines": ("RUN a && \\\n    b", "RUN /bin/sh -c a &&     b # buildkit", True),
    "RUN with SHELL": ('SHELL ["/b", "-x"]\nRUN y', "RUN /b -x y # buildkit", True),
    "RUN with ARG": ("ARG x=1\nRUN y", "RUN |1 x=1 /bin/sh -c y # buildkit", True),
    "RUN with ARGs in order": (
        "ARG b=1\nARG a\nARG c=3 b=4\nRUN y",
        "RUN |3 b=4 a= c=3 /bin/sh -c y # buildkit",
        True,
    ),
    "RUN with an ARG that ENV overrides": (
        "ARG a=1\nENV a=2\nRUN y",
        "RUN |1 a=2 /bin/sh -c y # buildkit",
        True,
    ),
    "RUN exec form with ARG": ('ARG x=1\nRUN ["y"]', "RUN |1 x=1 y # buildkit", True),
    "RUN flags are no words": (
        "RUN --network=none --mount=type=tmpfs,target=/t y",
        "RUN /bin/sh -c y # buildkit",
        True,
    ),
    "RUN heredoc": ("RUN <<E\na\nb\nE", "RUN /bin/sh -c a\nb\n # buildkit", True),
    "RUN heredoc for a command": (
        "RUN cat <<E\na\nE",
        "RUN /bin/sh -c cat <<E\na\nE # buildkit",
        True,
    ),
    "RUN script": ("RUN <<E\n#!/x\na\nE", "RUN /bin/sh -c /dev/pipes/E # buildkit", True),
    "COPY": ("COPY a b /c/", "COPY a b /c/ # buildkit", True),
    "COPY expands": ("ARG v=1\nCOPY a-$v.jar $d/x", "COPY a-1.jar /x # buildkit", True),
    "COPY flags": (
        "COPY --link --chmod=0755 --chown=1:2 --parents --exclude=*.o a b",
        "COPY --parents --chown=1:2 --chmod=0755 a b # buildkit",
        True,
    ),
    "COPY --from": ("COPY --from=img:1 a b", "COPY a b # buildkit", True),
    "COPY JSON": ('COPY ["a b", "c"]', "COPY a b c # buildkit", True),
    "COPY heredoc": ("COPY <<f <<g /d/\n1\nf\n2\ng", "COPY <<f <<g /d/ # buildkit", True),
    "ADD": ("ADD --chown=x a.tar.gz /", "ADD --chown=x a.tar.gz / # buildkit", True),
    "WORKDIR": ("WORKDIR /a\nWORKDIR b", "WORKDIR /a/b", True),
    "WORKDIR root": ("WORKDIR /", "WORKDIR /", False),
    "ENV": ("ENV a=1 b='x y'", "ENV a=1 b=x y", False),
    "ARG": ("ARG a", "ARG a", False),
    "ARG default": ("ARG a=1 b c=$a", "ARG a=1 b c=1", False),
    "ARG of the platform": ("ARG TARGETARCH", "ARG TARGETARCH=amd64", False),
    "LABEL": ('LABEL a=1 "b c"="d e"', "LABEL a=1 b c=d e", False),
    "USER": ("USER 1:2", "USER 1:2", False),
    "CMD exec form": ('CMD ["a", "b \\"c\\"\\n"]', r'CMD ["a" "b \"c\"\n"]', False),
    "CMD shell form": ("CMD a b", 'CMD ["/bin/sh" "-c" "a b"]', False),
    "ENTRYPOINT": ('ENTRYPOINT ["é", "\\u0001"]', r'ENTRYPOINT ["é" "\x01"]', False),
    "ENTRYPOINT empty": ("ENTRYPOINT []", "ENTRYPOINT []", False),
    "SHELL": ('SHELL ["/b", "-c"]', "SHELL [/b -c]", False),
    "EXPOSE sorted as Docker": ("EXPOSE 9 80/udp", "EXPOSE [80/udp 9/tcp]", False),
    "VOLUME": ("VOLUME /b /a", "VOLUME [/b /a]", False),
    "STOPSIGNAL": ("STOPSIGNAL 9", "STOPSIGNAL 9", False),
    "MAINTAINER": ("MAINTAINER x y", "MAINTAINER x y", False),
    "HEALTHCHECK": (
        "HEALTHCHECK --interval=5m --timeout=1500ms --retries=2 CMD curl -f x",
        "HEALTHCHECK {Test:[CMD-SHELL curl -f x] Interval:5m0s Timeout:1.5s StartPeriod:0s "
        "StartInterval:0s Retries:2}",
        False,
    ),
}


@pytest.mark.parametrize(("text", "line", "layer"), LINES.values(), ids=LINES.keys())
def test_a_line_of_history_reads_as_buildkit_writes_it(text: str, line: str, layer: bool) -> None:
    last = state_of(text).config.history[-1]
    assert last == History("", line, "buildkit.dockerfile.v0", "", not layer)


def test_onbuild_and_from_leave_no_line() -> None:
    assert state_of("ONBUILD RUN x").config.history == ()
    assert state_of("FROM --arg=a=1 scratch").config.history == ()


def test_the_history_of_the_base_comes_first_and_stays() -> None:
    base = History("2001-01-01T00:00:00Z", "base", "", "", False)
    state = start_image(ImageConfig(Platform("linux", "amd64"), history=(base,)))
    assert state.commit("ENV a=1").config.history[0] == base
    assert state.inherited == 1


def test_a_step_without_files_can_say_so_afterwards() -> None:
    state = state_of("WORKDIR /a").without_layer()
    assert [line.empty_layer for line in state.config.history] == [True]


# text, what the history holds; --build-arg is secret=TOPSECRET each time
HIDDEN: dict[str, tuple[str, list[str]]] = {
    "ARG and RUN": (
        "ARG secret\nRUN y",
        ["ARG secret=****", "RUN |1 secret=**** /bin/sh -c y # buildkit"],
    ),
    "an ARG made from it": (
        "ARG secret\nARG b=x$secret\nRUN y",
        [
            "ARG secret=****",
            "ARG b=****",
            "RUN |2 secret=**** b=**** /bin/sh -c y # buildkit",
        ],
    ),
    "an ARG before FROM made from it": (
        "ARG secret\nARG b=x$secret\nFROM scratch\nARG b\nRUN y",
        ["ARG b=****", "RUN |1 b=**** /bin/sh -c y # buildkit"],
    ),
    "inherited by a stage": (
        "FROM scratch AS x\nARG secret\nFROM x\nRUN y",
        ["ARG secret=****", "RUN |1 secret=**** /bin/sh -c y # buildkit"],
    ),
    "COPY": (
        "ARG secret\nCOPY --chown=$secret a-$secret /b",
        ["ARG secret=****", "COPY --chown=$secret a-$secret /b # buildkit"],
    ),
    "ADD": (
        "ARG secret\nADD https://u:$secret@example.com/x /b",
        ["ARG secret=****", "ADD https://u:$secret@example.com/x /b # buildkit"],
    ),
    "a heredoc of COPY": (
        "ARG secret\nCOPY <<f /b\n$secret\nf",
        ["ARG secret=****", "COPY <<f /b # buildkit"],
    ),
    "a default that it replaces": ("ARG secret=x", ["ARG secret=****"]),
}


@pytest.mark.parametrize(("text", "lines"), HIDDEN.values(), ids=HIDDEN.keys())
def test_a_build_argument_is_not_in_the_history(text: str, lines: list[str]) -> None:
    state = state_of(text, build_args={"secret": "TOPSECRET"})
    assert [line.created_by for line in state.config.history] == lines
    assert "TOPSECRET" not in repr(state.config)


def test_what_env_and_label_publish_was_asked_for() -> None:
    state = state_of("ARG v\nENV V=$v\nLABEL v=$v\nRUN y", build_args={"v": "1.2"})
    lines = [line.created_by for line in state.config.history]
    assert lines == [
        "ARG v=****",
        "ENV V=1.2",
        "LABEL v=1.2",
        "RUN |1 v=**** /bin/sh -c y # buildkit",
    ]


@pytest.mark.parametrize("given", ["host", "build-arg"])
@pytest.mark.parametrize("text", ["RUN y", "ARG HTTP_PROXY\nRUN y", "ARG HTTP_PROXY=d\nRUN y"])
def test_a_proxy_is_not_in_the_history(text: str, given: str) -> None:
    values = {"HTTP_PROXY": "http://u:TOPSECRET@proxy.example.com"}
    with_it = state_of(
        text,
        passed=values if given == "host" else None,
        build_args=values if given == "build-arg" else None,
    )
    assert "TOPSECRET" not in repr(with_it.config)
    assert with_it.config.history[-1].created_by == "RUN /bin/sh -c y # buildkit"
