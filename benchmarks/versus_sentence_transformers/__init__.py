"""Against the obvious tool: a PEFT LoRA by sentence-transformers' trainer, at equal time."""
