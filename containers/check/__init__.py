"""`make container-check`: builds the Dockerfile and runs compose.yaml without an engine."""
