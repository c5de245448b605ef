"""The processes, one folder each."""
