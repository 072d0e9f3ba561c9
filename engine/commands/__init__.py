"""The `glassrt` command: one file a command, and what the terminal shows."""
