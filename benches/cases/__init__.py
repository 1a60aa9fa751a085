"""One module for each workload; each runs one subject at one number of callers, in its process.

A case prints one JSON object on a line for each thing it measured. Not the order of the runs nor
their number: those are the driver's (`benches/run.py`).
"""
