"""Audits what an adapter gives away: `fedllm audit` as a script to copy into a pipeline.

    python scripts/privacy_audit.py run --model M --adapter A --members F --nonmembers F --out DIR
    python scripts/privacy_audit.py run --run runs/demo --out DIR --gates gates.yaml
    python scripts/privacy_audit.py verify DIR/report.json

Exit codes: 0 pass, 1 fail, 2 a mistake in what was asked, 3 inconclusive, 4 invalid.
"""

import sys

from fedllm.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "audit")
    main()
