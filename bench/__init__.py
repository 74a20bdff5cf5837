"""Measures this lab against plain JupyterHub and against the bare container; see README.md.

Owns the measurement and its tables. Never part of the lab: nothing outside this folder imports it.
"""
