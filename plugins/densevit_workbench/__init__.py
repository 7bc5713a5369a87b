"""Tools beside training: doctor, benchmark, inspect, new, and the exchange of data with other formats.

Each is a command, found in the entry-point group `densevit.commands`. Nothing in densevit imports this package.
"""
