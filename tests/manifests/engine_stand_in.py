"""A program in place of `docker`: it answers from a folder and writes down what it was asked.

It stands in for the engine at the border of our process alone: what is done with real images is in tests/images.
"""

import json
import sys
from pathlib import Path

from tests.manifests.file_systems import FILES, archive

_PROGRAM = """#!{python}
import json, os, sys
here = {folder!r}
arguments = sys.argv[1:]
with open(here + "/asked.jsonl", "a") as asked:
    print(json.dumps([arguments, os.environ.get("DOCKER_HOST"), os.environ.get("DOCKER_BUILDKIT")]), file=asked)
if os.environ.get("DOCKER_HOST") in {silent!r}:
    sys.exit("Cannot connect to the Docker daemon")
for words, code, out, err in {answers!r}:
    if arguments[: len(words)] == words or " ".join(words) in " ".join(arguments):
        sys.stderr.write(err)
        sys.stdout.write(out)
        sys.exit(code)
if arguments[0] == "export":
    sys.stdout.buffer.write(open(here + "/" + arguments[1] + ".tar", "rb").read())
elif arguments[0] == "create":
    print("base" if "python:" in arguments[-2] else "ours")
elif arguments[:2] == ["version", "--format"]:
    print({version!r})
elif arguments[0] == "buildx":
    sys.exit("docker: 'buildx' is not a docker command.")
else:
    print("sha256:1")
"""

Answer = tuple[list[str], int, str, str]


class StandIn:
    """The program, its answers and its log."""

    def __init__(
        self, folder: Path, *answers: Answer, version: str = "20.10.24", silent: tuple[str | None, ...] = ()
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.program = folder / "docker"
        text = _PROGRAM.format(
            python=sys.executable, folder=str(folder), answers=list(answers), version=version, silent=silent
        )
        self.program.write_text(text)
        self.program.chmod(0o755)
        (folder / "base.tar").write_bytes(archive({}).getvalue())
        (folder / "ours.tar").write_bytes(archive(FILES).getvalue())

    def asked(self, command: str) -> list[list[str]]:
        """The arguments of every call of this command."""
        return [call[0] for call in self.calls() if call[0][0] == command]

    def calls(self) -> list[tuple[list[str], str | None, str | None]]:
        """Every call: its arguments, its DOCKER_HOST, its DOCKER_BUILDKIT."""
        return [json.loads(line) for line in (self._folder / "asked.jsonl").read_text().splitlines()]
