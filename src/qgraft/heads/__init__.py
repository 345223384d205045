"""Heads: `(batch, n_features)` in, logits `(batch, n_classes)` out."""
