"""TIFF files page by page: what they hold and say, and the tiles of slides in them."""
