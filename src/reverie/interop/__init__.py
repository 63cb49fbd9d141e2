"""Out to other libraries and back: ``export`` a run as a diffusers folder, ``import_`` one as a run."""

from reverie.interop.exporting import export
from reverie.interop.importing import import_

__all__ = ["export", "import_"]
