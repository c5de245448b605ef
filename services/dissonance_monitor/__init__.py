"""The dissonance monitor: judges feedback and gathers clashes into batches."""
