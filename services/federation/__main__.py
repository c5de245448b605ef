"""`python -m services.federation`."""

from services.federation.service import FederationService
from services.runtime.main import run

if __name__ == "__main__":
    run(FederationService)
