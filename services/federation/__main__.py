"""`python -m services.federation`."""

import services.runtime.one_thread  # noqa: F401  (before NumPy)
from services.federation.service import FederationService
from services.runtime.main import run

if __name__ == "__main__":
    run(FederationService)
