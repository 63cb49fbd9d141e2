"""Exchange with other libraries: ``export`` a run as a diffusers folder, ``import_`` a diffusers folder as a run."""

from reverie.interop.exporting import export
from reverie.interop.importing import import_

__all__ = ["export", "import_"]
