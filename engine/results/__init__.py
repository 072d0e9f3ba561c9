"""What users get of a slide: figures, maps, regions, pictures, and the table of all."""
