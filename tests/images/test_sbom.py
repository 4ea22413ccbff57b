"""The bills of materials: valid CycloneDX, and complete by what the image itself says."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from manifests import images as program
from manifests.docker import Docker
from manifests.image_contents import Contents, canonical
from manifests.images import Image
from manifests.sbom import write_sbom
from tests.images.containers import images, output

CREATED = datetime(2026, 11, 1, tzinfo=UTC)


def document(contents: Contents) -> str:
    return write_sbom(contents, name="example/image", version="1", programs={"helm": "v4.1.4"}, created=CREATED)


def purls(text: str) -> set[str]:
    return {component["purl"] for component in json.loads(text)["components"]}


@images()
def test_the_document_lists_what_the_image_finds_in_itself(
    image: Image, docker: Docker, contents: Callable[[str], Contents]
):
    text = document(contents(image.reference))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    code = "import importlib.metadata as m\nfor d in m.distributions(): print(d.name, d.version)"
    python = [line.split() for line in output(docker, image.reference, ["python", "-I", "-c", code]).splitlines()]
    dpkg = output(docker, image.reference, ["dpkg-query", "-W", "-f", "${Package} ${Version} ${Architecture}\n"])
    listed = purls(text)
    assert {f"pkg:pypi/{canonical(name)}@{version}" for name, version in python} == {
        purl for purl in listed if purl.startswith("pkg:pypi/")
    }
    found = {tuple(line.split()) for line in dpkg.splitlines()}
    debian = {(one.name, one.version, one.architecture) for one in contents(image.reference).debian}
    assert debian == found
    assert sum(purl.startswith("pkg:deb/") for purl in listed) == len(found) > 50


@images("pipeline-cpu")
def test_making_an_image_writes_its_document_with_what_no_package_manager_knows(
    image: Image, docker: Docker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert program.main([image.name, "--json", "--output", str(tmp_path)]) == 0
    (built,) = json.loads(capsys.readouterr().out)
    text = Path(built["sbom"]).read_text()
    assert {"pkg:generic/helm@v4.1.4"} < purls(text)
    assert built["distributions"] == sum(purl.startswith("pkg:pypi/") for purl in purls(text))
    assert built["reference"] == image.reference
    assert built["id"] == docker.run("image", "inspect", "--format", "{{.Id}}", image.reference)
    assert (tmp_path / f"{image.name}.log").read_text()
