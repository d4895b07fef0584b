"""The primary's side: the public face, and the drivers that carry out what `core` decides."""
