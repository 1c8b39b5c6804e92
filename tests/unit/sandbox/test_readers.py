"""Which programs are asked about more for what they are told."""

from __future__ import annotations

import pytest

from ch_image.sandbox.readers import reads_owners

READ = """
tar cf x.tar .
tar -cf x.tar .
tar -C / -cf x.tar usr
tar --create --file x.tar .
tar -rf x.tar more
tar uf x.tar more
tar --diff -f x.tar
tar -df x.tar
tar --totals -cf x.tar .
tar
sed -i s/a/b/ file
sed -Ei s/a/b/ file
sed -e s/a/b/ -e s/b/c/ -n -i.bak file
sed --in-place=.bak s/a/b/ file
sed s/a/b/ file -i
dpkg --configure -a
dpkg --status-fd 9 --force-confdef --configure man-db
dpkg -i a.deb
python3 /root/.ansible/tmp/AnsiballZ_copy.py
"""
LEFT = """
tar xf x.tar
tar -xf - --warning=no-timestamp
tar zxvf x.tgz
tar -tvf x.tar
tar --extract -f x.tar
sed s/i/j/ file
sed -n -e s/a/b/p file
sed --expression=s/i/j/ file
sed
dpkg --unpack a.deb
dpkg -L man-db
python3 setup.py
python3
"""


def _lines(text: str) -> list[str]:
    return text.strip().splitlines()


@pytest.mark.parametrize("line", _lines(READ))
def test_who_reads_owners_is_marked(line: str) -> None:
    words = line.encode().split()
    assert reads_owners(words[0], words)


@pytest.mark.parametrize("line", _lines(LEFT))
def test_who_does_not_runs_free(line: str) -> None:
    words = line.encode().split()
    assert not reads_owners(words[0], words)


def test_a_long_list_of_arguments_is_taken_for_one_that_edits() -> None:
    assert reads_owners(b"sed", [b"sed", *[b"-e"] * 23])
