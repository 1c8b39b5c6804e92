"""Fixtures: an ordinary user's storage, a real registry, real base images, real namespaces."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import debian
import pytest
import world

# A shell that runs the tests in the background has Ctrl-C ignored, nohup has HUP, for its children
# too; the tests send both on purpose.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

T = TypeVar("T")
NAMESPACES = {"in_userns", "ch_image"}  # fixtures that cannot do without


@functools.cache
def _refused() -> str:
    return world.kernel_refuses_namespaces()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever uses a fixture that needs namespaces carries the marker that says so."""
    for item in items:
        if NAMESPACES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.userns)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what the kernel will not let an ordinary user do, in the kernel's words."""
    if item.get_closest_marker("userns") and _refused():
        world.lacking(f"no unprivileged user namespaces: {_refused()}")


@pytest.fixture(autouse=True)
def _plain_umask() -> Iterator[None]:
    """Tests say which umask they mean; a developer's own must not decide."""
    old = os.umask(0o022)
    yield
    os.umask(old)


@pytest.fixture
def in_userns() -> Callable[[Callable[[], T]], T]:
    """`in_userns(work)`: run `work` as uid 0 of our namespace, in a child; see world."""
    return world.in_namespace


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Path]:
    """A storage directory of its own; removed with the modes that images leave behind."""
    path = tmp_path / "storage"
    yield path
    remove_tree(path)


@pytest.fixture
def ch_image(storage: Path, tmp_path: Path) -> world.Tool:
    """`ch_image("list", "-l")`: our command in a fresh process, over `storage`."""
    home = tmp_path / "home"
    home.mkdir()
    return world.Tool(storage, home)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.Registry]:
    """Debian's docker-registry on a loopback port, empty at first."""
    with world.running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def base_layout(tmp_path_factory: pytest.TempPathFactory) -> world.BaseImage:
    """The busybox image on disk."""
    return world.make_base_image(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def base_image(base_layout: world.BaseImage, registry: world.Registry) -> str:
    """The busybox image's name in the running registry."""
    return registry.push(base_layout.source, "busybox:latest")


@pytest.fixture(scope="session")
def debian_base(registry: world.Registry) -> str:
    """A debootstrapped debian:bookworm's name in the running registry."""
    return registry.push(f"oci:{debian.base_layout()}:latest", "debian:bookworm")


def remove_tree(path: Path) -> None:
    """Remove a tree whose directories may have any modes; what is left is not ours to hide."""
    if path.is_file():
        path.unlink()
    if not path.exists():
        return
    subprocess.run(["chmod", "-R", "u+rwX", str(path)], check=False, capture_output=True)
    shutil.rmtree(path)
