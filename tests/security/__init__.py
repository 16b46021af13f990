"""Attempts to do harm, and the defences that must hold."""
