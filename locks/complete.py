"""Exit 1 where PyTorch lacks what it was built with: that is CUDA's libraries, in cuda.txt.

Which build pip takes depends on the machine and on its package index; only the one with CUDA
names these libraries, some GB that nobody needs who has the other.
"""

import importlib.metadata
import re
import sys

NAMED = importlib.metadata.requires("torch") or []
INSTALLED = {one.name.lower().replace("_", "-") for one in importlib.metadata.distributions()}

sys.exit(
    sys.platform == "linux"
    and any(
        re.split(r"[^a-z0-9-]", one.lower().replace("_", "-"))[0] not in INSTALLED
        for one in NAMED
        if re.match(r"nvidia-|cuda-|triton", one)
    )
)
