"""One file per training method, each readable from top to bottom."""
