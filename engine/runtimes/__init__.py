"""What runs a graph: one file a runtime, which of them runs here, and whether it computes rightly."""
