"""`glassrt train` and `glassrt evaluate`: one file a command."""
