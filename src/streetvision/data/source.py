"""Names of picture sources, as commands and pipelines take them."""

from pathlib import Path

from streetvision.data.build import PictureSource
from streetvision.data.folder import FolderSource
from streetvision.data.procedural import ProceduralSource


def open_source(name: str, *, scenes: int, seed: int) -> PictureSource:
    """The source called `procedural` with that many scenes, else the folder or CSV at the path `name`.

    Raises:
        DataError: the folder or CSV is missing or cannot be used.
    """
    if name == "procedural":
        return ProceduralSource(scenes=scenes, seed=seed)
    return FolderSource(Path(name))
