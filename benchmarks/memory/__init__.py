"""What each process of a fleet takes of memory, each card in use, each thousand registered."""
