"""Rows, table and figures of a comparison, from records."""
