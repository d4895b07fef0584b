"""The primary's side: the public face and the drivers that act on what `core` decides."""
