"""`python -m services.router`."""

from services.router.service import RouterService
from services.runtime.main import run

if __name__ == "__main__":
    run(RouterService)
