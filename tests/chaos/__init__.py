"""Processes die, connections break: nothing is lost, and nobody has to help."""
