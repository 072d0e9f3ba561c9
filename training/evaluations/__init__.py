"""How a bundle is scored on a published set: one file a set, no torch."""
