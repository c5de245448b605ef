"""`python -m services.encoder`."""

from services.encoder.service import EncoderService
from services.runtime.main import run

if __name__ == "__main__":
    run(EncoderService)
