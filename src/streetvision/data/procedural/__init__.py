"""Street scenes with and without roadwork, drawn in perspective: data that needs no download and no licence."""

from streetvision.data.procedural.source import RENDERER_VERSION, ProceduralSource

__all__ = ["RENDERER_VERSION", "ProceduralSource"]
