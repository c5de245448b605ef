"""The demonstration: the fleet learns the standard library of the Python that runs it."""
