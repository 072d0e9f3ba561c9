"""From windows of a slide through a runtime to whatever takes their outputs."""
