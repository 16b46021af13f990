"""Measurements of pgsched; each module runs by itself and prints a table."""
