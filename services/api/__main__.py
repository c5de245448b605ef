"""`python -m services.api`."""

import services.runtime.one_thread  # noqa: F401  (before NumPy)
from services.api.service import ApiService
from services.runtime.main import run

if __name__ == "__main__":
    run(ApiService)
