"""What of this suite is too slow for every day: whole hosts, each made ready from nothing (minutes each)."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("GPULAB_TEST_FULL") == "1" else ["test_fresh_hosts.py"]
