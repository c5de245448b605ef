"""What a teacher adds to little feedback, asked over HTTP through the whole fleet."""
