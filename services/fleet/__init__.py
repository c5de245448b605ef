"""The fleet: starts the processes, watches over them, stops them in order."""
