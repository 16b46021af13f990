"""Proof of what schedules promise, in the manner of Jepsen's Chronos tests."""
