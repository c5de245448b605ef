"""`python -m services.factory`."""

import services.runtime.one_thread  # noqa: F401  (before NumPy)
from services.factory.service import SkillFactory
from services.runtime.main import run

run(SkillFactory)
