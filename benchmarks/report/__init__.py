"""All benchmarks of speed, one after another, and the page that is made of what they found."""
