"""`python -m services.distiller`."""

import services.runtime.one_thread  # noqa: F401  (before NumPy)
from services.distiller.service import Distiller
from services.runtime.main import run

run(Distiller)
