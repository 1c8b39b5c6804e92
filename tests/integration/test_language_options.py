"""build's options as docker has them, run as a user would run them."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import conftest
import pytest
import world
from language import Bench

pytestmark = [pytest.mark.userns, pytest.mark.registry]

STAGES = "FROM @BASE@ AS one\nRUN echo > /one\nFROM one AS two\nRUN echo > /two\nFROM scratch\n"


@pytest.fixture(scope="module")
def bench(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    work = tmp_path_factory.mktemp("options")
    tool = world.Tool(work / "storage", work)
    tool("pull", base_image).ok()
    yield Bench(tool, base_image, work)
    conftest.remove_tree(work / "storage")


def images(bench: Bench) -> set[str]:
    return {line.split()[0] for line in bench.tool("list").ok().out.splitlines()}


@pytest.mark.parametrize(
    ("target", "there", "absent"),
    [("one", {"one"}, {"two"}), ("TWO", {"one", "two"}, set()), ("1", {"one", "two"}, set())],
)
def test_a_target_ends_the_build(
    target: str, there: set[str], absent: set[str], bench: Bench
) -> None:
    done = bench.build(STAGES + "COPY nothing /\n", None, "--target", target).ok()
    tree = bench.tree().keys()
    assert there <= tree
    assert not absent & tree
    assert "FROM scratch" not in done.err


def test_a_target_that_is_not_there_is_named_with_what_is_near(bench: Bench) -> None:
    done = bench.build(STAGES, None, "--target", "on")
    assert '"on"' in done.fault()
    assert "one" in done.err.rpartition("hint:")[2]


def test_every_tag_names_the_image(bench: Bench) -> None:
    bench.build("FROM @BASE@\n", None, "-t", "two:v2", "--tag=example.com:5000/three").ok()
    assert {"x", "two:v2", "example.com:5000/three"} <= images(bench)


@pytest.mark.parametrize(
    ("file", "name"),
    [("Dockerfile", "context"), ("Dockerfile.inferred", "inferred"), ("a-b.df", "a-b"),
     ("c.dockerfile", "c"), ("Dockerfile.We!rd", "werd")],
)  # fmt: skip
def test_without_a_tag_a_name_is_inferred(file: str, name: str, bench: Bench) -> None:
    context = bench.context("FROM @BASE@\n", {file: "FROM @BASE@\n"})
    bench.tool("build", "-f", context / file, context).ok()
    assert name in images(bench)


def test_labels_and_annotations_are_kept(bench: Bench) -> None:
    text = "FROM @BASE@\nLABEL a=1 b=2\n"
    bench.build(
        text, None, "--label", "b=3", "--label=c", "--annotation", "org.example.n=v",
        "-o", f"type=oci,tar=false,dest={bench.work}/labelled",
    ).ok()  # fmt: skip
    assert bench.config()["config"]["Labels"] == {"a": "1", "b": "3", "c": ""}
    layout = bench.work / "labelled"
    entry = json.loads((layout / "index.json").read_text())["manifests"][0]
    blob = layout / "blobs/sha256" / entry["digest"].removeprefix("sha256:")
    assert json.loads(blob.read_text())["annotations"] == {"org.example.n": "v"}


def test_files_get_the_image_id_and_what_was_built(bench: Bench) -> None:
    iid, metadata = bench.work / "iid", bench.work / "metadata"
    done = bench.build("FROM @BASE@\n", None, "-q", "--iidfile", iid, "--metadata-file", metadata)
    text = done.ok().out
    assert text == iid.read_text() + "\n"
    assert text.startswith("sha256:")
    value = json.loads(metadata.read_text())
    assert value["containerimage.config.digest"] == text.strip()
    assert value["image.name"] == "x"


def test_quiet_prints_nothing_but_the_image_id(bench: Bench) -> None:
    done = bench.build("FROM @BASE@\nRUN echo noise\n", None, "-q").ok()
    assert done.out.count("\n") == 1
    assert done.err == ""


def test_standard_input_may_hold_the_dockerfile(bench: Bench) -> None:
    context = bench.context("not read", {"f": "there"}, "stdin")
    text = f"FROM {bench.base}\nCOPY f /\nRUN grep there /f\n"
    bench.tool("build", "-t", "x", "-f", "-", context, stdin=text).ok()


def test_the_dockerfile_may_be_spelt_small(bench: Bench) -> None:
    context = bench.context("", {"dockerfile": "FROM scratch\nCOPY f /\n", "f": ""}, "small")
    (context / "Dockerfile").unlink()
    bench.tool("build", "-t", "x", context).ok()
    assert bench.tree().keys() == {"f"}


def test_standard_input_alone_is_a_build_without_context(bench: Bench) -> None:
    text = f"FROM {bench.base}\nCOPY <<EOF /f\nhere\nEOF\nRUN grep here /f\n"
    bench.tool("build", "-t", "x", "-", stdin=text).ok()
    done = bench.tool("build", "-t", "x", "-", stdin=f"FROM {bench.base}\nCOPY f /\n")
    assert "there is no build context" in done.fault()


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_standard_input_may_be_an_archive_of_the_context(kind: str, bench: Bench) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=f"w:{kind}") as tar:  # type: ignore[call-overload]
        tar.add(bench.context("FROM @BASE@\nCOPY d/f /\nRUN ls /f\n", {"d/f": ""}, "tarred"), ".")
        other = bench.context("FROM @BASE@\nCOPY d/f /other\nRUN ls /other\n", None, "tarred")
        tar.add(other / "Dockerfile", "other/File")
    bench.tool("build", "-t", "x", "-", stdin=raw.getvalue()).ok()
    bench.tool("build", "-t", "x", "-f", "other/File", "-", stdin=raw.getvalue()).ok()


def test_a_dry_run_does_nothing_and_says_what_it_would(bench: Bench) -> None:
    before = images(bench)
    text = "FROM @BASE@\nRUN echo > /dry\nCOPY Dockerfile /\n"
    done = bench.build(text, None, "-n", "-t", "dry").ok()
    assert "2. RUN.S echo > /dry" in done.err
    assert images(bench) == before
    assert "2. RUN" in bench.build(text).ok().err  # nothing of it was cached


def test_parse_only_needs_neither_base_nor_files(bench: Bench) -> None:
    text = "FROM nowhere.example/x\nCOPY nothing /\nRUN false\n"
    assert bench.build(text, None, "--parse-only").ok().out == ""
    done = bench.build("FROM x\nRUM y\n", None, "--parse-only")
    assert done.code == 1
    assert "RUN" in done.err


@pytest.mark.parametrize("options", [("--check",), ("--check", "--format", "json")])
def test_check_finds_what_docker_build_check_finds(options: tuple[str, ...], bench: Bench) -> None:
    done = bench.build("from @BASE@ AS One\nWORKDIR rel\nCMD run me\n", None, *options)
    assert done.code == 1
    for rule in ("StageNameCasing", "WorkdirRelativePath", "JSONArgsRecommended"):
        assert rule in done.out
    if "json" in options:
        assert {"rule", "line", "column", "message"} <= json.loads(done.out)[0].keys()
    clean = 'FROM @BASE@ AS one\nWORKDIR /abs\nCMD ["run"]\n'
    assert bench.build(clean, None, *options).code == 0


def test_ignore_files_hide_files_and_never_the_dockerfile(bench: Bench) -> None:
    files = {"a": "", "b": "", "c/d": "", ".dockerignore": "*\n!c\nDockerfile\n!b\nb\n"}
    bench.build("FROM scratch\nCOPY . /\n", files).ok()
    assert {p for p in bench.tree() if p != "."} == {"c", "c/d"}
    own = {"My.df": "FROM scratch\nCOPY . /\n", "My.df.dockerignore": "c\n*.df*\nDockerfile\n.*\n"}
    context = bench.context("", files | own)
    bench.tool("build", "-t", "x", "-f", context / "My.df", context).ok()
    assert {p for p in bench.tree() if p != "."} == {"a", "b"}
    done = bench.build("FROM scratch\nCOPY b /\n", files)
    assert ".dockerignore" in done.err


OUT = (
    "FROM @BASE@ AS b\nRUN mkdir -p /o/d && echo x > /o/x && chown app /o/x && chmod 4755 /o/x\n"
    "RUN ln -s x /o/l && ln /o/x /o/d/h && mknod /o/null c 1 3\nFROM scratch\nCOPY --from=b /o /\n"
)


def test_output_to_a_directory_leaves_other_files_there(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("kept")
    (tmp_path / "x").write_text("replaced")
    before = images(bench)
    bench.tool("build", "-o", tmp_path, bench.context(OUT)).ok()
    assert {p.name for p in tmp_path.iterdir()} == {"keep", "x", "l", "d"}
    assert (tmp_path / "x").read_text() == "x\n"
    assert (tmp_path / "x").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "l").readlink() == Path("x")
    assert images(bench) == before, "what is only given out gets no name"


def test_output_as_an_archive_has_true_owners_and_devices(bench: Bench) -> None:
    bench.build(OUT).ok()
    tree = bench.tree()
    assert tree["x"]["owner"] == "1234:0"
    assert tree["null"]["device"] == "1:3"
    assert tree["x"]["links"] == ["d/h", "x"]
    target = bench.work / "o.tar.gz"
    bench.build(OUT, None, "-o", f"type=tar,dest={target}").ok()
    with tarfile.open(target) as tar:
        assert tar.getmember("x").uid == 1234


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_output_as_a_layout_is_what_skopeo_reads(kind: str, bench: Bench) -> None:
    target = bench.work / f"{kind}.tar"
    bench.build(OUT, None, "-t", "named:v1", "-o", f"type={kind},dest={target}").ok()
    where = "oci-archive" if kind == "oci" else "docker-archive"
    copied = bench.work / f"copied-{kind}"
    argv = [world.program("skopeo"), "--insecure-policy", "copy", f"{where}:{target}:named:v1"]
    if kind == "oci":
        argv[-1] = f"{where}:{target}:v1"
    done = subprocess.run([*argv, f"dir:{copied}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((copied / "manifest.json").read_text())
    assert len(manifest["layers"]) == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("type=what,dest=x", "no such type"),
        ("type=tar", "no dest"),
        ("dest=x", "no type"),
        ("type=local,dest=-", "cannot hold a directory"),
        ("type=tar,colour=red", "colour=red"),
    ],
)
def test_an_output_that_cannot_be_meant_is_wrong_usage(
    spec: str, message: str, bench: Bench
) -> None:
    done = bench.build("FROM scratch\n", None, "-o", spec)
    assert done.code == 2
    assert message in done.fault()


def test_with_an_epoch_two_builds_give_the_same_bytes(bench: Bench) -> None:
    digests = []
    for number in range(2):
        target = bench.work / f"epoch{number}.tar"
        bench.build(
            "FROM @BASE@\nRUN echo > /f; mkdir /d\nCOPY <<EOF /h\nEOF\nCOPY Dockerfile /c\n", None,
            "--rebuild", "-o", f"type=oci,dest={target}", env={"SOURCE_DATE_EPOCH": "1700000000"},
        ).ok()  # fmt: skip
        digests.append(hashlib.sha256(target.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    assert bench.config()["created"] == "2023-11-14T22:13:20Z"


@pytest.mark.parametrize(
    ("line", "options", "env", "created"),
    [
        ("ARG SOURCE_DATE_EPOCH=1600000000", (), {}, "2020-09-13T12:26:40Z"),
        ("ARG T=1\nARG SOURCE_DATE_EPOCH=${T}00", (), {}, "1970-01-01T00:01:40Z"),
        ("ARG SOURCE_DATE_EPOCH=1", ("--build-arg", "SOURCE_DATE_EPOCH=60"), {},
         "1970-01-01T00:01:00Z"),
        ("ARG X", (), {"SOURCE_DATE_EPOCH": "61"}, "1970-01-01T00:01:01Z"),
        ("ARG X", ("--build-arg", "SOURCE_DATE_EPOCH=62"), {"SOURCE_DATE_EPOCH": "61"},
         "1970-01-01T00:01:02Z"),
    ],
)  # fmt: skip
def test_the_epoch_is_an_argument(
    line: str, options: tuple[str, ...], env: dict[str, str], created: str, bench: Bench
) -> None:
    target = bench.work / "epoch.tar"
    bench.build(
        f"{line}\nFROM @BASE@\nARG SOURCE_DATE_EPOCH\nRUN echo -n $SOURCE_DATE_EPOCH > /e\n",
        None, "-o", f"type=tar,dest={target}", *options, env=env,
    ).ok()  # fmt: skip
    config = bench.config()
    assert config["created"] == created
    with tarfile.open(target) as tar:
        entry = tar.getmember("e")
        file = tar.extractfile(entry)
        assert file is not None
        seconds = file.read().decode()
    assert int(seconds) == entry.mtime
    assert config["history"][-2]["created_by"] == f"ARG SOURCE_DATE_EPOCH={seconds}"


def test_an_epoch_that_is_no_number_is_refused(bench: Bench) -> None:
    done = bench.build("ARG SOURCE_DATE_EPOCH=now\nFROM @BASE@\n")
    assert (done.code, '"now"' in done.fault()) == (1, True)


@pytest.mark.parametrize(
    ("directive", "given", "fails"),
    [
        ("# check=error=true", None, True),
        ("# check=error=true;skip=FromAsCasing", None, False),
        ("# check=skip=all", "error=true", True),
        ("# check=error=true", "skip=all", False),
        ("# no directive", None, False),
        ("# no directive", "", False),
    ],
)
def test_checks_may_be_errors(directive: str, given: str | None, fails: bool, bench: Bench) -> None:
    options = () if given is None else (f"--build-arg=BUILDKIT_DOCKERFILE_CHECK={given}",)
    done = bench.build(f"{directive}\nFROM @BASE@ as one\n", None, *options)
    assert done.code == fails, done.err
    if fails:
        assert done.fault().startswith("Dockerfile:2: FromAsCasing: ")


def test_what_is_no_option_of_checks_is_refused(bench: Bench) -> None:
    done = bench.build("FROM @BASE@\n", None, "--build-arg=BUILDKIT_DOCKERFILE_CHECK=eror=true")
    assert (done.code, "eror=true" in done.fault()) == (2, True)


def test_a_context_may_be_the_empty_image(bench: Bench) -> None:
    context = ("--build-context", "other=docker-image://scratch")
    bench.build("FROM other\nCOPY Dockerfile /\n", None, *context).ok()
    assert bench.tree().keys() == {"Dockerfile"}


def test_a_platform_is_chosen_by_name(bench: Bench) -> None:
    bench.build("FROM --platform=linux/arm/v7 scratch\nCOPY Dockerfile /\n").ok()
    config = bench.config()
    assert (config["os"], config["architecture"], config["variant"]) == ("linux", "arm", "v7")
    bench.build("FROM scratch\nARG TARGETARCH\nLABEL a=$TARGETARCH\n", None, "-a", "ppc64le").ok()
    assert bench.config()["architecture"] == "ppc64le"
    assert bench.config()["config"]["Labels"] == {"a": "ppc64le"}


def test_the_config_is_what_docker_writes(bench: Bench) -> None:
    text = r"""FROM @BASE@
        MAINTAINER Me <me@example.com>
        ARG V=1
        ENV A=1 PATH=/x:$PATH
        ENV B=$A C="a b" D=it\'s
        EXPOSE 80 53/udp 90-92
        VOLUME ["/data", "/log"]
        WORKDIR /w
        WORKDIR sub
        USER app:staff
        STOPSIGNAL SIGQUIT
        HEALTHCHECK --interval=5s --timeout=1m30s --retries=4 CMD curl -f http://localhost
        SHELL ["/bin/sh", "-ec"]
        ENTRYPOINT exec run
        CMD ["a", "b"]
        ONBUILD RUN echo "hi there"
        LABEL one=1 "two words"="x y"
        RUN true
        """
    bench.build("\n".join(line.strip() for line in text.splitlines())).ok()
    value = bench.config()
    assert value["author"] == "Me <me@example.com>"
    config = value["config"]
    assert config["Env"] == ["PATH=/x:/bin:/usr/bin", "A=1", "B=1", "C=a b", "D=it's"]
    assert config["ExposedPorts"] == {
        p: {} for p in ("53/udp", "80/tcp", "90/tcp", "91/tcp", "92/tcp")
    }
    assert config["Volumes"] == {"/data": {}, "/log": {}}
    assert config["WorkingDir"] == "/w/sub"
    assert config["User"] == "app:staff"
    assert config["StopSignal"] == "SIGQUIT"
    assert config["Healthcheck"] == {
        "Test": ["CMD-SHELL", "curl -f http://localhost"],
        "Interval": 5_000_000_000, "Timeout": 90_000_000_000, "Retries": 4,
    }  # fmt: skip
    assert config["Shell"] == ["/bin/sh", "-ec"]
    assert config["Entrypoint"] == ["/bin/sh", "-ec", "exec run"]
    assert config["Cmd"] == ["a", "b"]
    assert config["OnBuild"] == ['RUN echo "hi there"']
    assert config["Labels"] == {"one": "1", "two words": "x y"}
    history = [(h["created_by"], bool(h.get("empty_layer"))) for h in value["history"]]
    assert history[-1] == ("RUN |1 V=1 /bin/sh -ec true # buildkit", False)
    assert ("WORKDIR /w", False) in history
    assert ('CMD ["a" "b"]', True) in history
    assert sum(not empty for _, empty in history) == 3 or len(history) == 18


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--network=none", "RUN ! ip route | grep -q default && ip address | grep -q lo:"),
        ("--add-host=other=::1", "RUN grep '::1.*other' /etc/hosts"),
        ("--bind=@WORK@/bound:/b/f", "RUN grep bound /b/f"),
        ("--bind=@WORK@/bound", "RUN grep bound @WORK@/bound"),
    ],
)
def test_options_of_every_run(option: str, line: str, bench: Bench) -> None:
    (bench.work / "bound").write_text("bound")
    option, line = (text.replace("@WORK@", str(bench.work)) for text in (option, line))
    bench.build(f"FROM @BASE@\n{line}\nCOPY Dockerfile /\n", None, option).ok()
    assert "b" not in bench.tree()
