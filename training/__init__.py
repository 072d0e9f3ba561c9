"""Training of the networks that GlassRT serves; torch is imported by the modules that need it, not here."""
