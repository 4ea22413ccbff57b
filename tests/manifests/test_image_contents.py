"""What is read from an image's file system."""

import io

import pytest

from manifests.image_contents import Package, canonical, read_contents
from streetvision.errors import DataError
from tests.manifests.file_systems import FILES, archive


def test_packages_are_read_from_their_own_records():
    contents = read_contents(archive(FILES))
    assert contents.distributions == (Package("a-b", "1.0", licence="MIT"), Package("c", "2", licence="BSD License"))
    assert contents.debian == (Package("libc6", "2.36-9", "amd64"),)
    assert (contents.distribution, contents.python) == ("debian-12", "3.11.2")


def test_what_is_added_are_files_that_the_base_has_not_or_not_so():
    base = read_contents(archive({"same": "12345", "changed": "1"}))
    image = read_contents(archive({"same": "12345", "changed": "123", "new": "12"}))
    assert image.added_bytes(base) == 5
    assert read_contents(archive({"same": "12345"}, time=9)).added_bytes(base) == 5


def test_what_the_engine_puts_into_every_container_counts_for_nothing():
    contents = read_contents(archive({".dockerenv": "", "etc/resolv.conf": "nameserver 1.2.3.4", "etc/passwd": "root"}))
    assert dict(contents.sizes) == {"etc/passwd": 4}


def test_a_file_system_without_python_and_without_dpkg_is_read_as_well():
    contents = read_contents(archive({"program": "x"}))
    assert (contents.distributions, contents.debian, contents.distribution, contents.python) == ((), (), "", "")


def test_an_archive_that_breaks_off_is_refused():
    with pytest.raises(DataError, match="no readable archive"):
        read_contents(io.BytesIO(archive(FILES).getvalue()[:700]))


def test_names_are_compared_as_pypi_does():
    assert canonical("Foo_Bar.baz") == "foo-bar-baz"
