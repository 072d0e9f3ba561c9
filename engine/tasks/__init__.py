"""What each kind of bundle does to a slide."""
