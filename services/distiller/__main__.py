"""`python -m services.distiller`."""

from services.distiller.service import Distiller
from services.runtime.main import run

run(Distiller)
