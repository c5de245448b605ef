"""`python -m services.adapter_manager`."""

import services.runtime.one_thread  # noqa: F401  (before NumPy)
from services.adapter_manager.service import AdapterManagerService
from services.runtime.main import run

if __name__ == "__main__":
    run(AdapterManagerService)
