"""`python -m services.adapter_manager`."""

from services.adapter_manager.service import AdapterManagerService
from services.runtime.main import run

if __name__ == "__main__":
    run(AdapterManagerService)
