"""`python -m services.factory`."""

from services.factory.service import Factory
from services.runtime.main import run

run(Factory)
