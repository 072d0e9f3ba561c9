"""`glassrt bench`: one file a command."""
