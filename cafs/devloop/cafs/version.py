"""The version of this installation, in the one place that hatch reads it from.

A constant, since asking the installed metadata costs 20 ms a start.
"""

VERSION = "0.1.0"
