"""A simulated week: traffic that drifts, nightly bodies, kills, and the history of one skill."""
