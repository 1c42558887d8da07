"""kvbench against its peers and against the machine, measured in one run: ``python -m benchmarks.performance``.

Every measurement is interleaved with what it is compared with, since machines are shared and their speed drifts.
"""
