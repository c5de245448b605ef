"""From the last clash to the card that answers: what waits besides the training."""
