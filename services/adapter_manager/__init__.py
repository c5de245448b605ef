"""The adapter manager: which cards are installed, verified before and loaded once."""
