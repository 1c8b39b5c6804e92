"""What a COPY leaves in the image: BuildKit's rules as a table of trees."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trees

from ch_image.build.context import Context, read_rules
from ch_image.build.copy import CopyResult, copy
from ch_image.build.copyspec import CopySpec, Document, choose
from ch_image.build.select import refuse
from ch_image.dockerfile import ignore
from ch_image.errors import BuildError


class Case(NamedTuple):
    """A COPY of ``sources`` (blanks between) from ``context`` over ``image``."""

    name: str
    context: str
    sources: str
    destination: str
    expected: str  # the whole tree afterwards
    image: str = ""
    options: dict[str, Any] = {}
    workdir: str = "/"


def case(
    name: str, context: str, copy: str, expected: str, image: str = "", **options: Any
) -> Case:
    *sources, destination = copy.split(" ")
    workdir = options.pop("workdir", "/")
    return Case(name, context, " ".join(sources), destination, expected, image, options, workdir)


def carry_out(tmp: Path, given: Case, ignored: str = "") -> tuple[Path, CopyResult]:
    context = trees.plant(tmp / "context", given.context)
    root = trees.plant(tmp / "image", given.image)
    rules = ignore.from_patterns(ignored.split()) if ignored else None
    spec = CopySpec(tuple(given.sources.split()), given.destination, **given.options)
    done = copy(spec, Context(str(context), rules), str(root), workdir=given.workdir)
    return root, done


def check(tmp: Path, given: Case, ignored: str = "") -> None:
    root, done = carry_out(tmp, given, ignored)
    assert trees.read(root, done.owners) == trees.same(given.expected)


DESTINATIONS = [
    case("a file to a new name", "a = 1", "a /b", "b = 1"),
    case("a file into a directory that a slash makes", "a = 1", "a /d/", "d/\nd/a = 1"),
    case("parents are made", "a = 1", "a /x/y/b", "x/\nx/y/\nx/y/b = 1"),
    case("parents are made for a slash", "a = 1", "a /x/y/", "x/\nx/y/\nx/y/a = 1"),
    case("a file into a directory that is there", "a = 1", "a /d", "d/\nd/a = 1", image="d/"),
    case("a file over a file", "a = 1", "a /b", "b = 1", image="b 600 = 0"),
    case("the root", "a = 1", "a /", "a = 1"),
    case("a dot is the working directory", "a = 1", "a .", "w/\nw/a = 1", workdir="/w"),
    case("dot slash", "a = 1", "a ./", "w/\nw/a = 1", workdir="/w"),
    case("relative to the working directory", "a = 1", "a b", "w/\nw/b = 1", workdir="/w"),
    case("above the working directory", "a = 1", "a ../", "v/\nv/a = 1", workdir="/v/w"),
    case("above the working directory to a name", "a = 1", "a ../b", "v/\nv/b = 1", workdir="/v/w"),
    case("never above the root", "a = 1", "a ../../../b", "b = 1", workdir="/w"),
    case("slash dot is a directory", "a = 1", "a /d/.", "d/\nd/a = 1"),
    case("doubled slashes", "a = 1", "a //d//", "d/\nd/a = 1"),
    case("several files into a directory", "a = 1\nb = 2", "a b /d/", "d/\nd/a = 1\nd/b = 2"),
    case("several files to one name: the last stays", "a = 1\nb = 2", "a b /d", "d = 2"),
    case(
        "the same name twice: the last stays",
        "x/a = 1\ny/a = 2",
        "x/a y/a /d/",
        "d/\nd/a = 2",
    ),
    case("a directory's contents", "d/a = 1\nd/b = 2", "d /x", "x/\nx/a = 1\nx/b = 2"),
    case("a directory with a slash", "d/a = 1", "d/ /x/", "x/\nx/a = 1"),
    case("a directory with a dot", "d/a = 1", "d/. /x", "x/\nx/a = 1"),
    case("the whole context", "a = 1\nd/b = 2", ". /x", "x/\nx/a = 1\nx/d/\nx/d/b = 2"),
    case("the whole context into the root", "a = 1\nd/b", ". /", "a = 1\nd/\nd/b ="),
    case("the whole context by a slash", "a = 1", "/ /x", "x/\nx/a = 1"),
    case("a source from the root of the context", "d/a = 1", "/d/a /b", "b = 1"),
    case("a source above the context stays in it", "a = 1", "../../a /b", "b = 1"),
    case("dots inside a source", "d/a = 1\nb = 2", "d/../b /x", "x = 2"),
    case("a file with a trailing slash", "a = 1", "a/ /b", "b = 1"),
    case("an empty directory", "d/", "d /x/", "x/"),
    case("an empty directory below", "d/e/", "d /x/", "x/\nx/e/"),
    case("two directories in one", "x/a\ny/b", "x y /d/", "d/\nd/a =\nd/b ="),
    case("a file and a directory", "f = 1\ny/b", "f y /d/", "d/\nd/b =\nd/f = 1"),
    case("an empty file", "a", "a /b", "b ="),
    case("a name with a percent sign", "a%20b = 1", "a%20b /", "a%20b = 1"),
    case("a name that is not ASCII", "äöü = 1", "äöü /d/", "d/\nd/äöü = 1"),
    case("a name of 255 bytes", f"{'n' * 255} = 1", f"{'n' * 255} /", f"{'n' * 255} = 1"),
]

MERGING = [
    case("what is there stays", "d/a = 1", "d /d", "d/\nd/a = 1\nd/b = 2", image="d/b = 2"),
    case(
        "a destination directory keeps its mode and owner",
        "d/ 700\nd/a = 1",
        "d /x",
        "x/ 711 @3:4\nx/a = 1",
        image="x/ 711 @3:4",
    ),
    case(
        "a new destination directory is 755, whatever the source's is",
        "d/ 700\nd/a",
        "d /x",
        "x/\nx/a",
    ),
    case("a directory below brings its mode", "d/e/ 700\nd/e/a", "d /x", "x/\nx/e/ 700\nx/e/a"),
    case(
        "a directory below that is there takes the source's mode and owner",
        "d/e/ 700\nd/e/a",
        "d /d",
        "d/\nd/e/ 700\nd/e/a\nd/e/b @1:1",
        image="d/e/ 755 @7:7\nd/e/b @1:1",
    ),
    case("modes are exact", "a 4755\nb 2711\nc 1644", "a b c /x/",
         "x/\nx/a 4755\nx/b 2711\nx/c 1644"),
    case("modes of directories are exact", "d/e/ 2750\nd/f/ 1777", "d /x",
         "x/\nx/e/ 2750\nx/f/ 1777"),
    case("a file replaces a file with its owner", "a = 1", "a /a", "a = 1", image="a 600 @1:2 = 0"),
    case("a file in a merged directory replaces", "d/a = 1", "d /d", "d/\nd/a = 1",
         image="d/a 600 @1:2 = 0"),
    case("a file replaces a link in a directory", "a = 1", "a /d/", "b = 0\nd/\nd/a = 1",
         image="b = 0\nd/a -> ../b"),
    case("a file below replaces a link", "s/a = 1", "s /d", "b = 0\nd/\nd/a = 1",
         image="b = 0\nd/a -> ../b"),
    case("a file replaces a FIFO", "a = 1", "a /p", "p = 1", image="p |"),
    case("other names of a replaced file keep it", "a = 1", "a /a", "a = 1\nb = 0",
         image="a = 0\nb == a"),
]  # fmt: skip

LINKS = [
    case("a link as source is followed", "a = 1\nl -> a", "l /x", "x = 1"),
    case("a link as source keeps its own name in a directory", "a = 1\nl -> a", "l /d/",
         "d/\nd/l = 1"),
    case("a chain of links", "a = 1\nl -> m\nm -> n\nn -> a", "l /x", "x = 1"),
    case("a link with an absolute target is inside the context", "d/a = 1\nl -> /d/a", "l /x",
         "x = 1"),
    case("a link that climbs out stays in the context", "a = 1\nd/l -> ../../../a", "d/l /x",
         "x = 1"),
    case("a link to a directory: its contents", "d/a = 1\nl -> d", "l /x", "x/\nx/a = 1"),
    case("through a link to a directory", "d/a = 1\nl -> d", "l/a /x", "x = 1"),
    case("links in a directory stay links", "d/a = 1\nd/l -> a\nd/m -> /nowhere", "d /x",
         "x/\nx/a = 1\nx/l -> a\nx/m -> /nowhere"),
    case("a link to a directory stays a link below", "d/e/a = 1\nd/l -> e", "d /x",
         "x/\nx/e/\nx/e/a = 1\nx/l -> e"),
    case("a destination that is a link to a directory", "a = 1", "a /l/", "d/\nd/a = 1\nl -> d",
         image="d/\nl -> d"),
    case("a destination that is a link to a directory, no slash", "a = 1", "a /l",
         "d/\nd/a = 1\nl -> d", image="d/\nl -> d"),
    case("a destination that is a link to a file: the file is replaced", "a = 1", "a /l",
         "f = 1\nl -> f", image="f 600 = 0\nl -> f"),
    case("a dangling destination: the target is made", "a = 1", "a /l", "l -> t\nt = 1",
         image="l -> t"),
    case("a dangling destination, with a slash: a directory", "a = 1", "a /l/",
         "l -> x/t\nx/\nx/t/\nx/t/a = 1", image="l -> x/t"),
    case("a dangling destination far away", "a = 1", "a /l", "l -> /x/y/t\nx/\nx/y/\nx/y/t = 1",
         image="l -> /x/y/t"),
    case("a destination link that climbs out stays in the image", "a = 1", "a /d/l/",
         "d/\nd/l -> ../../../x\nx/\nx/a = 1", image="d/l -> ../../../x"),
    case("a directory through a destination link", "s/a = 1", "s /l", "d/\nd/a = 1\nl -> d",
         image="d/\nl -> d"),
    case("a link on the way of the destination", "a = 1", "a /l/x/y", "d/\nd/x/\nd/x/y = 1\nl -> d",
         image="d/\nl -> d"),
    case("links replace files", "d/l -> x", "d /e", "e/\ne/l -> x", image="e/l = 1"),
    case("names of one file stay one file", "d/a = 1\nd/b == d/a\nd/e/c == d/a", "d /x",
         "x/\nx/a = 1\nx/b == x/a\nx/e/\nx/e/c == x/a"),
    case("one name of a file alone", "a = 1\nb == a", "a /", "a = 1"),
    case("names of one file in two sources are two files", "x/a = 1\ny/b == x/a", "x y /d/",
         "d/\nd/a = 1\nd/b = 1"),
]  # fmt: skip

WILDCARDS = [
    case("a star", "a.c = 1\nb.c = 2\nc.h = 3", "*.c /x/", "x/\nx/a.c = 1\nx/b.c = 2"),
    case("a star takes dot files", ".a = 1\nb = 2", "* /x/", "x/\nx/.a = 1\nx/b = 2"),
    case("a question mark", "a1 = 1\na22 = 2", "a? /x/", "x/\nx/a1 = 1"),
    case("a set", "a1 = 1\na2 = 2\na3 = 3", "a[1-2] /x/", "x/\nx/a1 = 1\nx/a2 = 2"),
    case("a negated set", "a1 = 1\na2 = 2", "a[^1] /x/", "x/\nx/a2 = 2"),
    case("no negation by an exclamation mark", "a! = 1\na2 = 2", "a[!1] /x/", "x/\nx/a! = 1"),
    case("a protected star", "a* = 1\nab = 2", "a[*] /x/", "x/\nx/a* = 1"),
    case("a bracket in a name", "a[0].t = 1", "a[[]0].t /x", "x = 1"),
    case("a star between slashes", "x/a/f = 1\ny/a/f = 2\nz/f = 3", "*/a/f /d", "d = 2"),
    case("a star does not cross slashes", "a/b/c = 1\na/c = 2", "a/*c /x/", "x/\nx/c = 2"),
    case("two stars are one", "a/b/c = 1\na/c = 2", "a/**/c /x/", "x/\nx/c = 1"),
    case("matched directories: their contents", "d1/a = 1\nd2/b = 2", "d* /x/",
         "x/\nx/a = 1\nx/b = 2"),
    case("a star below a directory", "s/d/f = 1\ns/g = 2", "s/* /x/", "x/\nx/f = 1\nx/g = 2"),
    case("one match to a new name", "f.go = 1\nb.c = 2", "f*.go /g", "g = 1"),
    case("several matches to one name: the last stays", "a.c = 1\nb.c = 2", "*.c /x", "x = 2"),
    case("matched links are followed", "s/l -> f\ns/f = 1", "s/l* /x/", "x/\nx/l = 1"),
    case("a link before the wildcard is followed", "d/a = 1\nl -> d", "l/* /x/", "x/\nx/a = 1"),
    case("a link in the wildcard is not", "d/e/a = 1\nx/l -> ../d/e\nx/m/a = 2", "x/*/a /y",
         "y = 2"),
    case("a wildcard beside a file may match nothing", "a = 1", "a nothing* /x/", "x/\nx/a = 1"),
]  # fmt: skip


@pytest.mark.parametrize(
    "given", DESTINATIONS + MERGING + LINKS + WILDCARDS, ids=lambda given: given.name
)
def test_a_copy_leaves(given: Case, tmp_path: Path) -> None:
    check(tmp_path, given)


OPTIONS = [
    case("chmod in octal", "a 600", "a /x", "x 755", chmod="755"),
    case("chmod with set-ID bits", "a", "a /x", "x 6711", chmod="6711"),
    case("chmod of a directory reaches all", "d/e/f 600", "d /x", "x/ 770\nx/e/ 770\nx/e/f 770",
         chmod="770"),
    case("chmod leaves a destination that is there", "d/a 600", "d /x", "x/ 711\nx/a 700",
         image="x/ 711", chmod="700"),
    case("chmod makes the parents", "a", "a /p/q/a", "p/ 770\np/q/ 770\np/q/a 770", chmod="770"),
    case("chmod to next to nothing", "a", "a /x", "x 400", chmod="0400"),
    case("chmod adds", "a 640", "a /x", "x 751", chmod="+x"),
    case("chmod by clauses", "d/a 600\nd/b 755", "d /x", "x/\nx/a 644\nx/b 755",
         chmod="u=rwX,go=rX"),
    case("chmod takes away", "a 777", "a /x", "x 755", chmod="go-w"),
    case("chmod by clauses keeps 755 for parents", "a 600", "a /p/a", "p/\np/a 700", chmod="u+x"),
    case("chmod does not touch links", "d/l -> a\nd/a 600", "d /x", "x/ 700\nx/a 700\nx/l -> a",
         chmod="700"),
    case("chown by numbers", "a", "a /x", "x @5:6", chown="5:6"),
    case("chown of a user alone is the group too", "a", "a /x", "x @5:5", chown="5"),
    case("chown reaches all, links too", "d/a\nd/l -> a\nd/e/\nd/p |", "d /x",
         "x/ @5:6\nx/a @5:6\nx/e/ @5:6\nx/l @5:6 -> a\nx/p @5:6 |", chown="5:6"),
    case("chown makes the parents", "a", "a /p/q/", "p/ @5:6\np/q/ @5:6\np/q/a @5:6",
         chown="5:6"),
    case("chown leaves a destination that is there", "d/a", "d /x", "x/ @1:1\nx/a @5:6",
         image="x/ @1:1", chown="5:6"),
    case("chown to root", "a", "a /x", "x", chown="0:0"),
    case("chown and chmod", "a", "a /x", "x 600 @5:6", chown="5:6", chmod="600"),
    case("exclude", "d/a = 1\nd/b.txt = 2", "d /x", "x/\nx/a = 1", exclude=("*.txt",)),
    case("exclude is relative to the source", "d/e/a\nd/a", "d /x", "x/\nx/e/\nx/e/a",
         exclude=("a",)),
    case("exclude at any depth", "d/e/a\nd/a\nd/b", "d /x", "x/\nx/b\nx/e/", exclude=("**/a",)),
    case("exclude a directory", "d/e/a\nd/b", "d /x", "x/\nx/b", exclude=("e",)),
    case("exclude but", "d/e/a\nd/e/b\nd/c", "d /x", "x/\nx/c\nx/e/\nx/e/b",
         exclude=("e", "!e/b")),
    case("exclude everything", "d/a\nd/e/f", "d /x", "x/", exclude=("*",)),
    case("exclude files that a wildcard matched", "home.txt\nhomer", "hom* /x/", "x/\nx/homer",
         exclude=("*.txt",)),
    case("exclude several", "d/a.t\nd/b.m\nd/c", "d /x", "x/\nx/c", exclude=("*.t", "*.m")),
    case("exclude from a directory that a wildcard matched", "d1/a\nd1/b\nd2/a", "d* /x/",
         "x/\nx/b", exclude=("a",)),
]  # fmt: skip

PARENTS = [
    case("a file", "a/b/c = 1\na/d", "a/b/c /", "a/\na/b/\na/b/c = 1"),
    case("into a directory", "a/b/c = 1", "a/b/c /x", "x/\nx/a/\nx/a/b/\nx/a/b/c = 1"),
    case("the directories' modes come along", "a/ 700\na/b/ 711\na/b/c", "a/b/c /x/",
         "x/\nx/a/ 700\nx/a/b/ 711\nx/a/b/c"),
    case("a directory with all in it", "a/b/c\na/b/d/e\na/f", "a/b /x/",
         "x/\nx/a/\nx/a/b/\nx/a/b/c\nx/a/b/d/\nx/a/b/d/e"),
    case("two sources of one name", "x/a = 1\ny/a = 2", "x/a y/a /p/",
         "p/\np/x/\np/x/a = 1\np/y/\np/y/a = 2"),
    case("a pivot", "a/b/c/d", "a/b/./c/d /x/", "x/\nx/c/\nx/c/d"),
    case("a pivot at the end", "a/b/c", "a/b/. /x/", "x/\nx/a/\nx/a/b/\nx/a/b/c"),
    case("two pivots: the first counts", "a/b/c/d", "a/./b/./c /x/", "x/\nx/b/\nx/b/c/\nx/b/c/d"),
    case("a pivot in front", "a/b", "./a/b /x/", "x/\nx/a/\nx/a/b"),
    case("a wildcard", "a/b1\na/b2\na/c", "a/b* /x/", "x/\nx/a/\nx/a/b1\nx/a/b2"),
    case("a wildcard behind the pivot", "a/b/c/f\na/b2/c/g", "a/./*/c /x/",
         "x/\nx/b/\nx/b/c/\nx/b/c/f\nx/b2/\nx/b2/c/\nx/b2/c/g"),
    case("a wildcard before the pivot", "a/b/c/e/f = 1\na/b2/c/e/g = 2", "a/b*/./c/**/e /x/",
         "x/\nx/c/\nx/c/e/\nx/c/e/f = 1\nx/c/e/g = 2"),
    case("two stars", "s/a.t\ns/x/b.t\ns/x/y/c.t\ns/x/y/d", "s/**/*.t /p/",
         "p/\np/s/\np/s/a.t\np/s/x/\np/s/x/b.t\np/s/x/y/\np/s/x/y/c.t"),
    case("two stars in front", "a/go.mod\nb/c/go.mod\nb/c/x", "**/go.mod /p/",
         "p/\np/a/\np/a/go.mod\np/b/\np/b/c/\np/b/c/go.mod"),
    case("directories that lead nowhere are not made", "a/b/\na/c/f", "a/*/f /p/",
         "p/\np/a/\np/a/c/\np/a/c/f"),
    case("exclude", "a/b/c\na/b/d", "a/b /x/", "x/\nx/a/\nx/a/b/\nx/a/b/d",
         exclude=("a/b/c",)),
    case("links stay links", "a/l -> b\na/b = 1", "a/l /x/", "x/\nx/a/\nx/a/l -> b"),
    case("chown and chmod", "a/b", "a/b /x/", "x/ 700 @1:2\nx/a/ 700 @1:2\nx/a/b 700 @1:2",
         chown="1:2", chmod="700"),
    case("the context", "a/b", ". /x/", "x/\nx/a/\nx/a/b"),
]  # fmt: skip

LINK = [
    case("a file", "a = 1", "a /d/b", "d/\nd/b = 1"),
    case("a link on the way gives way", "a = 1", "a /l/a", "d/\nl/\nl/a = 1", image="d/\nl -> d"),
    case("a link at the end gives way", "a = 1", "a /l", "f = 0\nl = 1", image="f = 0\nl -> f"),
    case("a directory at the end gives way to a file", "a = 1", "a /d", "d = 1", image="d/e/f"),
    case("a file gives way to a directory", "s/a = 1", "s /d", "d/\nd/a = 1", image="d = 0"),
    case("a file on the way gives way", "a = 1", "a /f/a", "f/\nf/a = 1", image="f = 0"),
    case("directories are merged", "s/a = 1", "s /d", "d/\nd/a = 1\nd/b = 0", image="d/b = 0"),
    case("directories are as new", "a = 1", "a /t/", "t/\nt/a = 1", image="t/ 1777 @1:1"),
    case("deeper things give way both ways", "s/x/a = 1\ns/y = 2", "s /d",
         "d/\nd/x/\nd/x/a = 1\nd/y = 2", image="d/x = 0\nd/y/z = 0"),
    case("two files of one COPY go to one directory", "a = 1\nb = 2", "a b /d/",
         "d/\nd/a = 1\nd/b = 2", image="d -> /e"),
    case("chown", "a", "a /d/", "d/ @1:2\nd/a @1:2", chown="1:2", image="d/ @7:7"),
    case("chmod turns it off", "a = 1", "a /l/", "d/\nd/a 600 = 1\nl -> d", chmod="600",
         image="d/\nl -> d"),
]  # fmt: skip

SPECIAL = [
    case("a FIFO", "d/p 620 |", "d /x", "x/\nx/p 620 |"),
    case("a FIFO as source", "p |", "p /x", "x |"),
    case("a socket becomes an empty file", "d/s 600 ~", "d /x", "x/\nx/s 600"),
    case("sockets as source", "s 640 ~", "s /x", "x 640"),
]


@pytest.mark.parametrize("given", OPTIONS + SPECIAL, ids=lambda given: given.name)
def test_options_and_special_files(given: Case, tmp_path: Path) -> None:
    check(tmp_path, given)


@pytest.mark.parametrize("given", PARENTS, ids=lambda given: given.name)
def test_with_parents(given: Case, tmp_path: Path) -> None:
    check(tmp_path, given._replace(options={"parents": True, **given.options}))


@pytest.mark.parametrize("given", LINK, ids=lambda given: given.name)
def test_with_link(given: Case, tmp_path: Path) -> None:
    check(tmp_path, given._replace(options={"link": True, **given.options}))


IGNORED = [
    (case("a file", "a\nb", ". /x", "x/\nx/b"), "a"),
    (case("a wildcard does not see it", "a.c\nb.c", "*.c /x/", "x/\nx/b.c"), "a.c"),
    (case("a directory", "d/a\nb", ". /x", "x/\nx/b"), "d"),
    (case("all but one", "d/a\nd/b\nc", ". /x", "x/\nx/d/\nx/d/a"), "* !d/a"),
    (case("a directory that leads to an exception", "d/ 700\nd/e/f\nd/g", ". /x",
          "x/\nx/d/ 700\nx/d/e/\nx/d/e/f"), "d !d/e/f"),
    (case("all but a directory that is not there", "a", ". /x", "x/"), "* !d"),
    (case("a named file in an excluded directory", "d/a = 1\nd/b", "d/a /x", "x = 1"), "d !d/a"),
    (case("a link to it, left as it is below", "s/l -> ../a\na", "s /x", "x/\nx/l -> ../a"), "a"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "ignored"), IGNORED, ids=lambda value: getattr(value, "name", "")
)
def test_what_is_ignored_is_not_there(given: Case, ignored: str, tmp_path: Path) -> None:
    check(tmp_path, given, ignored)


REFUSED = [
    (case("a file that is not there", "a", "b /x", ""), 'no "b" in the build context', ""),
    (case("a near name", "main.c", "man.c /x", ""), 'no "man.c"', 'did you mean "main.c"?'),
    (case("a near directory", "src/main.c", "scr/main.c /x", ""), 'no "scr/main.c"', "src/main.c"),
    (case("one of two", "a", "a b /x/", ""), 'no "b"', ""),
    (case("a wildcard in a directory that is not there", "a", "d/* /x/", ""), 'no "d"', ""),
    (case("a dangling link", "l -> nowhere", "l /x", ""), 'no "l"', "link to nowhere"),
    (case("links in a circle", "l -> m\nm -> l", "l /x", ""), "too many links", ""),
    (case("a file as a directory", "a", "a/b /x", ""), 'no "a/b"', ""),
    (case("a bad pattern", "a", "a[ /x", ""), "'[' is not closed", "[[]"),
    (case("a directory onto a file", "d/a", "d /f", "", image="f"), "onto /f, which is a file", ""),
    (case("a file onto a directory below", "s/d = 1", "s /x", "", image="x/d/e"),
     "onto /x/d, which is a directory", ""),
    (case("a directory onto a file below", "s/d/e", "s /x", "", image="x/d = 1"),
     "onto /x/d, which is a file", ""),
    (case("a directory onto a link below", "s/d/e", "s /x", "", image="x/d -> y\nx/y/"),
     "onto /x/d, which is a link", ""),
    (case("a file on the way", "a", "a /f/x", "", image="f = 1"), "file on the way", ""),
    (case("a file where a slash says directory", "a", "a /f/", "", image="f = 1"),
     "file on the way", ""),
    (case("links in a circle on the way", "a", "a /l", "", image="l -> l"), "links", ""),
    (case("an octal mode beyond 7777", "a", "a /x", "", chmod="10000"), "is no mode", "644"),
    (case("a mode of nonsense", "a", "a /x", "", chmod="64a"), '"64a" is no mode', "octal"),
    (case("an unknown user", "a", "a /x", "", chown="me"), 'no user "me"', "no /etc/passwd"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message", "hint"), REFUSED, ids=lambda value: getattr(value, "name", "")
)
def test_what_cannot_be_copied_is_said(
    given: Case, message: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(BuildError) as caught:
        carry_out(tmp_path, given)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_parents_without_a_wildcard_must_exist(tmp_path: Path) -> None:
    given = case("", "a/b", "a/c /x/", "", parents=True)
    with pytest.raises(BuildError, match='no "a/c"'):
        carry_out(tmp_path, given)


def test_the_ignore_line_that_hides_a_source_is_named(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "context", "a.c\nb")
    (root / ".dockerignore").write_text("# sources\n\n*.c\n")
    trees.plant(tmp_path / "image", "")
    found = read_rules(str(root))
    assert found is not None
    for source in ("a.c", "*.c"):
        with pytest.raises(BuildError) as caught:
            choose(CopySpec((source,), "/x/"), Context(str(root), found[1]), refuse)
        assert "line 3" in caught.value.hint
        assert '"*.c"' in caught.value.hint


@pytest.mark.parametrize(
    ("sources", "message", "hint"),
    [
        (["*.c"], 'matches "*.c"', "holds a, b"),
        (["*.c", "*.h"], 'matches "*.c", "*.h"', "holds a, b"),
        (["*.c", "a"], "", ""),
        (["[a]"], "", ""),
    ],
)
def test_wildcards_that_match_nothing_are_told_and_copy_nothing(
    sources: list[str], message: str, hint: str, tmp_path: Path
) -> None:
    root, image = trees.plant(tmp_path / "context", "a\nb"), trees.plant(tmp_path / "image", "")
    told: list[BuildError] = []
    spec = CopySpec(tuple(sources), "/x/")
    choose(spec, Context(str(root)), told.append)
    assert [str(one).endswith(message) for one in told] == [True] * bool(message)
    assert [one.hint for one in told] == ["/ " + hint] * bool(hint)
    done = copy(spec, Context(str(root)), str(image))
    assert trees.read(image) == (["x/", "x/a ="] if not message else [])
    assert done.files == (not message)


def test_parents_without_a_match_leave_the_destination(tmp_path: Path) -> None:
    root, image = trees.plant(tmp_path / "context", "a/b"), trees.plant(tmp_path / "image", "")
    copy(CopySpec(("a/c*",), "/x/", parents=True), Context(str(root)), str(image))
    assert trees.read(image) == ["x/"]


def test_heredocs_are_files_after_the_sources(tmp_path: Path) -> None:
    given = case("", "a = 1", "a /x/", "")
    documents = (Document("one", b"1\n"), Document("a", b"2"))
    root, done = carry_out(tmp_path, given._replace(options={"documents": documents}))
    assert trees.read(root) == ["x/", "x/a = 2", "x/one = 1"]
    assert (root / "x/one").read_bytes() == b"1\n"
    assert done.files == 3


def test_a_heredoc_alone_goes_to_a_name_with_owner_and_mode(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "image", "l -> t")
    spec = CopySpec((), "/l", chown="3:4", chmod="+x", documents=(Document("EOF", b"#!/bin/sh"),))
    copy(spec, None, str(root), now=5_000_000_001)
    assert trees.read(root) == ["l -> t", "t 755 @3:4 = #!/bin/sh"]
    assert (root / "t").stat().st_mtime_ns == 5_000_000_001


def test_users_are_those_of_the_image(tmp_path: Path) -> None:
    image = "etc/passwd = app:x:101:102::/:/bin/sh\netc/group = staff:x:50:app"
    root = trees.plant(tmp_path / "image", image)
    trees.plant(tmp_path / "context", "a")
    for chown, owner in [("app", "101:102"), ("app:staff", "101:50"), (":staff", "0:50")]:
        copy(CopySpec(("a",), "/x", chown=chown), Context(str(tmp_path / "context")), str(root))
        assert f"x @{owner} =" in trees.read(root)


def test_times_are_kept_to_the_nanosecond(tmp_path: Path) -> None:
    context = trees.plant(tmp_path / "context", "d/a = 1\nd/l -> a\nd/e/f = 2\nd/p |")
    paths = ["d/e/f", "d/a", "d/p", "d/e", "d"]
    for i, name in enumerate(paths):
        os.utime(context / name, ns=(0, 1_234_567_890_123_456_789 + i))
    os.utime(context / "d/l", ns=(0, 7), follow_symlinks=False)
    root = trees.plant(tmp_path / "image", "x/e/")
    copy(CopySpec(("d",), "/x"), Context(str(context)), str(root))
    for i, name in enumerate(paths):
        copied = (root / name.replace("d", "x", 1)).stat().st_mtime_ns
        assert copied == 1_234_567_890_123_456_789 + i, name
    assert (root / "x/l").lstat().st_mtime_ns == 7


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_do_not_depend_on_the_umask(umask: int, tmp_path: Path) -> None:
    trees.plant(tmp_path / "context", "d/a 666\nd/e/ 777\nd/p 622 |")
    root = trees.plant(tmp_path / "image", "")
    old = os.umask(umask)
    try:
        copy(CopySpec(("d",), "/n/x"), Context(str(tmp_path / "context")), str(root))
    finally:
        os.umask(old)
    assert trees.read(root) == ["n/", "n/x/", "n/x/a 666 =", "n/x/e/ 777", "n/x/p 622 |"]


def test_holes_stay_holes(tmp_path: Path) -> None:
    context = trees.plant(tmp_path / "context", "")
    with open(context / "sparse", "wb") as file:
        file.write(b"head")
        file.truncate(64 << 20)
    root = trees.plant(tmp_path / "image", "")
    copy(CopySpec(("sparse",), "/"), Context(str(context)), str(root))
    state = (root / "sparse").stat()
    assert state.st_size == 64 << 20
    assert state.st_blocks * 512 < 1 << 20
    assert (root / "sparse").read_bytes()[:5] == b"head\0"


def test_extended_attributes_come_along_but_not_those_that_steer_us(tmp_path: Path) -> None:
    context = trees.plant(tmp_path / "context", "d/a\nd/e/")
    for path in (context / "d/a", context / "d/e"):
        os.setxattr(path, "user.note", b"kept")
        os.setxattr(path, "user.containers.override_stat", b"7:7:0644:file")
        os.setxattr(path, "user.overlay.opaque", b"y")
    root = trees.plant(tmp_path / "image", "")
    copy(CopySpec(("d",), "/x"), Context(str(context)), str(root))
    assert os.listxattr(root / "x/a") == ["user.note"]
    assert os.listxattr(root / "x/e") == ["user.note"]
