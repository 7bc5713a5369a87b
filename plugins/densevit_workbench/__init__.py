"""Commands around training: doctor, benchmark, inspect, new, check, report, and conversions of data and weights.

The entry-point group `densevit.commands` lists them. Nothing in densevit imports this package.
"""
