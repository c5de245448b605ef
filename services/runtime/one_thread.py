"""One thread for the matrix products of a process beside the encoders: import it before NumPy.

They are small: threads that wait for each other cost more than they save, most of all beside busy
encoders. OpenBLAS reads this once, when NumPy is first imported; whoever sets it is heeded.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
