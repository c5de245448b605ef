"""`python -m services.dissonance_monitor`."""

import services.runtime.one_thread  # noqa: F401  (before NumPy)
from services.dissonance_monitor.service import DissonanceMonitor
from services.runtime.main import run

run(DissonanceMonitor)
