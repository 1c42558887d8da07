"""What becomes of a run that is killed, starved, or handed damaged files: `python -m benchmarks.reliability`."""
