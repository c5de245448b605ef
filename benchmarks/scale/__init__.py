"""How cost grows with encoders, skills and feedback: measured where it can be, simulated beyond."""
