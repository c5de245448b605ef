"""The factory: trains, judges and publishes cards."""
