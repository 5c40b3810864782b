"""Contracts in the formats of others. Pure: no clock, no I/O, no randomness."""
