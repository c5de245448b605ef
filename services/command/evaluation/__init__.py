"""How well a fleet retrieves from a BEIR-style folder, with its skills and without."""
