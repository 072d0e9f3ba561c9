"""A model on disk: its manifest, its graphs, what was measured of it, and the bundles that ship."""
