"""Plain images, read as viewers show them or refused."""
