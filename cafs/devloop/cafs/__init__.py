"""Content-addressed files: digests, trees, the blob store. Knows neither network nor screen."""
