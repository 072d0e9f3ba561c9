"""Pure geometry of windows on slides: views, plans, sampling; no pixels, no files."""
