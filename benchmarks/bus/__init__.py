"""How fast the bus is, live and durable, beside what people would use instead."""
