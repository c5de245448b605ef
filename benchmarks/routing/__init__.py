"""Three learned domains and everything else: who answers what."""
