"""What windows gave becomes a map, and the map regions."""
