"""`make demo`: everything at work on one machine, in about a minute."""
