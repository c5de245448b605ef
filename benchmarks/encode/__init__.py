"""Single texts through a whole fleet, beside the libraries that people would use instead."""
