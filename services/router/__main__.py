"""`python -m services.router`."""

import os

# Its products are small: threads that wait for each other cost more than they save, most of all
# beside busy encoders. Read when numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from services.router.service import RouterService
from services.runtime.main import run

if __name__ == "__main__":
    run(RouterService)
