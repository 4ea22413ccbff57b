"""Bills of materials: valid, complete, and the same each time."""

import json
from datetime import UTC, datetime

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from manifests.image_contents import Contents, read_contents
from manifests.sbom import write_sbom
from tests.manifests.file_systems import FILES, PACKAGES, archive


def document(contents: Contents) -> str:
    created = datetime(2026, 11, 1, tzinfo=UTC)
    return write_sbom(contents, name="example/image", version="1", programs={"helm": "v4.1.4"}, created=created)


def test_the_document_is_valid_and_lists_packages_and_programs():
    text = document(read_contents(archive(FILES)))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert {component["purl"] for component in json.loads(text)["components"]} == {
        "pkg:pypi/a-b@1.0",
        "pkg:pypi/c@2",
        "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12",
        "pkg:generic/python@3.11.2",
        "pkg:generic/helm@v4.1.4",
    }
    licences = {one["name"]: one.get("licenses") for one in json.loads(text)["components"]}
    assert licences["a-b"] == [{"license": {"id": "MIT"}}]


def test_the_same_image_has_the_same_document_and_another_has_another_number():
    first, again = document(read_contents(archive(FILES))), document(read_contents(archive(FILES)))
    assert first == again
    newer = FILES | {f"{PACKAGES}/c-2.dist-info/METADATA": "Name: c\nVersion: 3\n"}
    other = document(read_contents(archive(newer)))
    assert json.loads(other)["serialNumber"] != json.loads(first)["serialNumber"]
