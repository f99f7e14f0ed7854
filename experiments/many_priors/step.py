"""A training step of the many-priors codec, its search against the naive form and against no search: a row a width.

python experiments/many_priors/step.py [cpu|cuda] > experiments/many_priors/results.csv
"""

import csv
import sys

import numpy as np

from jdcsuite import bench, runs

REPEATS = 15
device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
out = None
for width in (0.1, 0.25, 0.5, 1.0):
    forms = bench.competition(width=width, batch=4, crop=128, repeats=REPEATS, device=device)
    naive, searched, free = (np.array(forms[form].times) for form in ("naive", "searched", "free"))
    low, middle, high = np.quantile(naive / searched, (0.25, 0.5, 0.75))
    row = {"width": width, "crops": 4, "crop": 128, "naive_over_searched": f"{middle:.3f}"}
    row |= {"low": f"{low:.3f}", "high": f"{high:.3f}", "naive_over_free": f"{np.median(naive / free):.3f}"}
    for form in ("naive", "searched"):
        row |= {f"kept_{form}_mib": f"{forms[form].kept / 2**20:.1f}", f"loss_{form}": f"{forms[form].loss:.6f}"}
    row |= {"repeats": REPEATS, "hardware": runs.hardware()}
    if out is None:
        out = csv.DictWriter(sys.stdout, row)
        out.writeheader()
    out.writerow(row)
    sys.stdout.flush()
