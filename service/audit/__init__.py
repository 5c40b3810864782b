"""Replays for operators and auditors: verify compares, rebuild writes."""
