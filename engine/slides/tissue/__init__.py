"""What of a slide is tissue: found by colour and grain, or given as a mask."""
