"""An encoder: the model, the cards mapped into it, and what is assigned to it."""
