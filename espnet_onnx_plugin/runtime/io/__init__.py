"""Recipe data in, result files out."""
