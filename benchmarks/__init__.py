"""What this machine does with the service, measured beside an empty endpoint. `python -m benchmarks --help`."""
