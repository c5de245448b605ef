"""What the benchmarks and the demo share: a fleet to speak to, the loop watched, figures."""
