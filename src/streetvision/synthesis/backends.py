"""Names of image generators, as commands and pipelines take them."""

from streetvision.errors import SettingsError
from streetvision.synthesis import Backend
from streetvision.synthesis.procedural import ProceduralBackend


def open_backend(name: str) -> Backend:
    """The backend called `procedural`.

    Raises:
        SettingsError: there is no backend of that name.
    """
    if name == "procedural":
        return ProceduralBackend()
    raise SettingsError(f"synthesis backend is `{name}`, expected `procedural`")
