"""`python -m services.router`."""

import services.runtime.one_thread  # noqa: F401  (before NumPy)
from services.router.service import RouterService
from services.runtime.main import run

if __name__ == "__main__":
    run(RouterService)
