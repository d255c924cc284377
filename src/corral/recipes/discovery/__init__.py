"""Service discovery, in Curator's layout."""
