"""Published data sets, read as their authors lay them out. One file per set; no torch."""
