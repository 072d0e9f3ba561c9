"""`glassrt train`, `glassrt evaluate` and `glassrt mosaic`: one file a command."""
