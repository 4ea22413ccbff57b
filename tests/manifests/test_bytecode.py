"""The bytecode that is written in a build."""

import os
import subprocess
import sys
from pathlib import Path

from manifests import bytecode


def test_what_the_modules_import_is_compiled_and_nothing_else_and_read_without_a_look_at_times(tmp_path: Path):
    for name, text in {"one": "import two", "two": "x = 1", "three": "x = 2"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    settings = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-B", bytecode.__file__, "one"], env=settings, check=True)
    written = {path.name.split(".")[0]: path for path in (tmp_path / "__pycache__").iterdir()}
    assert written.keys() == {"one", "two"}
    (tmp_path / "two.py").write_text("x = 'the source is not looked at'")
    code = [sys.executable, "-B", "-c", "import one; print(one.two.x)"]
    assert subprocess.run(code, env=settings, check=True, capture_output=True, text=True).stdout == "1\n"


def test_a_module_that_is_not_there_fails_the_build(tmp_path: Path):
    done = subprocess.run([sys.executable, "-B", bytecode.__file__, "no_such_module"], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"No module named 'no_such_module'" in done.stderr
