"""The learning craft: datasets, training, the gate, and what a card may route."""
