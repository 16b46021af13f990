"""Thousands of tasks and a hostile receiver; what became of them against what it wrote down."""
