"""Pictures, pages, tables."""
