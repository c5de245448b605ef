"""The router: skills by name and by meaning, workers, and the books of what is outstanding."""
