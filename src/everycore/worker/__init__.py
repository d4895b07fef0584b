"""A worker's view of itself; never imports the primary's side."""
