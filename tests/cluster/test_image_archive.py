"""An archive is what `docker load` and containerd read, and the same program gives the same bytes."""

import hashlib
import json
import os
import tarfile
from pathlib import Path

from tests.cluster import image_archive
from tests.cluster.image_archive import ProgramImage


def test_every_digest_is_that_of_what_it_names(tmp_path: Path):
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF" + bytes(range(256)) * 9)
    image = ProgramImage("example.com/tool:v1", program, "/usr/local/bin/tool", "65532:65532")
    image_archive.write([image], tmp_path / "a.tar")
    os.utime(program, (0, 0))
    image_archive.write([image], tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()

    with tarfile.open(tmp_path / "a.tar") as archive:
        (entry,) = json.load(archive.extractfile("manifest.json"))
        assert entry["RepoTags"] == ["example.com/tool:v1"]
        configuration = archive.extractfile(entry["Config"]).read()
        assert entry["Config"] == f"{hashlib.sha256(configuration).hexdigest()}.json"
        (layer,) = entry["Layers"]
        content = archive.extractfile(layer).read()
        digest = hashlib.sha256(content).hexdigest()
        assert json.loads(configuration)["rootfs"]["diff_ids"] == [f"sha256:{digest}"]
        assert json.loads(configuration)["config"]["User"] == "65532:65532"
        (tmp_path / "layer.tar").write_bytes(content)
    with tarfile.open(tmp_path / "layer.tar") as inside:
        (member,) = inside.getmembers()
        assert (member.name, member.mode) == ("usr/local/bin/tool", 0o755)
        assert inside.extractfile(member).read() == program.read_bytes()
