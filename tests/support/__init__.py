"""What several suites share: real processes and stand-ins, started and cleaned up by fixtures."""
