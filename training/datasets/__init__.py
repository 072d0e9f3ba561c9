"""Published data sets, read as their authors lay them out: one file a set, no torch."""
