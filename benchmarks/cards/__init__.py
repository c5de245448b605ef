"""What cards cost: in a forward pass, when they come and go, when there are thousands, on disk."""
