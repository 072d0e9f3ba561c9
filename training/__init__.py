"""Training of the networks that GlassRT serves. Torch is imported by the modules that need it, not here."""
