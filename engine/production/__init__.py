"""Many slides."""
