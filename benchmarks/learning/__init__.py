"""Learning curves: what the loop gains from so many pieces of feedback, and how soon."""
