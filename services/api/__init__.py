"""The HTTP door: OpenAI's embeddings, feedback, skills, events and the page, for any client."""
