from __future__ import annotations

import json
from pathlib import Path

from defectlab import launch

ASK = """
import json, sys, torch
from defectlab import ranks
with ranks.world(threads=1) as here:
    torch.manual_seed(0)
    alike = torch.nn.Linear(3, 2)
    other = torch.nn.Linear(3, 2)
    if here.rank == 1:
        # The same sum, so that only a look at each weight tells.
        with torch.no_grad():
            other.weight[0, 0] += 0.5
            other.weight[1, 1] -= 0.5
    print(json.dumps({
        "rank": here.rank, "size": here.size, "first": here.first, "total": ranks.total(torch.tensor(here.rank + 1.0)),
        "alike": ranks.same_weights(alike), "other": ranks.same_weights(other), "threads": torch.get_num_threads(),
        "cost": ranks.all_reduce_seconds(here, 1000) > 0,
    }), flush=True)
"""


def test_ranks_find_each_other_and_see_where_they_differ(tmp_path: Path) -> None:
    script = tmp_path / "ask.py"
    script.write_text(ASK)
    for size in (1, 2):
        done = launch.torchrun(script, size, limit=120)
        assert done.code == 0, done.output
        found = sorted(
            (json.loads(line) for line in done.output.splitlines() if line.startswith("{")), key=lambda told: told["rank"]
        )
        assert [told["rank"] for told in found] == list(range(size))
        assert [told["first"] for told in found] == [True, False][:size]
        assert all(told["total"] == sum(range(1, size + 1)) for told in found)
        assert all((told["alike"], told["other"]) == (True, size == 1) for told in found)
        assert all((told["size"], told["threads"], told["cost"]) == (size, 1, True) for told in found)
