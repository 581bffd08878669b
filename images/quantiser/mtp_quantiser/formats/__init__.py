"""Number formats, decoded and encoded in plain torch."""
