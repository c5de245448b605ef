"""`python -m services.dissonance_monitor`."""

from services.dissonance_monitor.service import DissonanceMonitor
from services.runtime.main import run

run(DissonanceMonitor)
