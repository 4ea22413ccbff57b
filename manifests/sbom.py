"""An image's software bill of materials, as CycloneDX JSON: Python's distributions, Debian's packages, programs."""

# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false
# (decorators without types hide what cyclonedx's classes are)

from collections.abc import Iterator, Mapping
from datetime import datetime
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from manifests.image_contents import Contents, Package


def write_sbom(contents: Contents, *, name: str, version: str, programs: Mapping[str, str], created: datetime) -> str:
    """The document's text; the same for the same image.

    Args:
        contents: of the image.
        name: of the image, without its tag.
        version: its tag.
        programs: versions of what no package manager knows, by name.
        created: when the image's source was committed.
    """
    image = Component(name=name, version=version, type=ComponentType.CONTAINER, bom_ref="image")
    bom = Bom(components=_components(contents, programs))
    bom.metadata.component = image
    bom.metadata.timestamp = created
    bom.register_dependency(image, bom.components)
    listed = " ".join(str(component.purl) for component in bom.components)
    bom.serial_number = uuid5(NAMESPACE_URL, f"{name}:{version} {listed}")
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _components(contents: Contents, programs: Mapping[str, str]) -> Iterator[Component]:
    for package in contents.distributions:
        yield _component(package, PackageURL("pypi", None, package.name, package.version))
    system = contents.distribution
    for package in contents.debian:
        qualifiers = {"arch": package.architecture} | ({"distro": system} if system else {})
        yield _component(
            package, PackageURL("deb", system.partition("-")[0], package.name, package.version, qualifiers)
        )
    for program, version in {**({"python": contents.python} if contents.python else {}), **programs}.items():
        yield _component(
            Package(program, version), PackageURL("generic", None, program, version), ComponentType.APPLICATION
        )


def _component(package: Package, purl: PackageURL, kind: ComponentType = ComponentType.LIBRARY) -> Component:
    licences = [LicenseFactory().make_from_string(package.licence)] if package.licence else []
    return Component(
        name=package.name, version=package.version, type=kind, purl=purl, bom_ref=str(purl), licenses=licences
    )
