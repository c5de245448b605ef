"""What the processes share: their life, their client, their settings, their store."""
