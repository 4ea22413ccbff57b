"""Writes the bytecode of everything that the named modules import: `python -B bytecode.py MODULE...`, in a build.

An image's root is read-only, so what is not compiled there is compiled anew at every start. All of an environment would
be a third larger; what a program imports is a fraction of that. The files are marked as valid without a look at the
source's time, which copies and archives of layers do not always keep. Only the standard library: it runs in the image.
"""

import importlib
import importlib.util
import py_compile
import sys
from pathlib import Path


def main() -> int:
    """Imports the modules and compiles what came with them; 0 where every one could be imported."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    sources = {
        Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None)) is not None
    }
    for source in sorted(path for path in sources if path.suffix == ".py"):
        if not Path(importlib.util.cache_from_source(str(source))).exists():
            py_compile.compile(
                str(source), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
