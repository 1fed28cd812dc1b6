"""A run on disk: what identifies it, who holds it, its record and its samples."""
