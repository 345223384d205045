"""Files in, `ImageSet` out."""
