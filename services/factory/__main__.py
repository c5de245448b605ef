"""`python -m services.factory`."""

from services.factory.service import SkillFactory
from services.runtime.main import run

run(SkillFactory)
