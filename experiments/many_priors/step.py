"""A training step of the many-priors codec, its search against the naive form and against no search: a row a width.

python experiments/many_priors/step.py [cpu|cuda] > experiments/many_priors/results.csv
"""

import csv
import sys

import numpy as np

from jdcsuite.artifacts import environment
from jdcsuite.bench.priors import competition

# crops, their side, widths, repeats: a small batch, and the published one
SETTINGS = ((4, 128, (0.1, 0.25, 0.5, 1.0), 15), (5, 256, (0.1, 0.25, 0.5, 1.0), 5))
device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
out = None
for batch, crop, widths, repeats in SETTINGS:
    for width in widths:
        forms = competition(width=width, batch=batch, crop=crop, repeats=repeats, device=device)
        naive, searched, free = (np.array(forms[form].times) for form in ("naive", "searched", "free"))
        low, middle, high = np.quantile(naive / searched, (0.25, 0.5, 0.75))
        row = {"crops": batch, "crop": crop, "width": width, "naive_over_searched": f"{middle:.3f}"}
        row |= {"low": f"{low:.3f}", "high": f"{high:.3f}", "naive_over_free": f"{np.median(naive / free):.3f}"}
        for form in ("naive", "searched"):
            made = forms[form]
            row |= {f"kept_{form}_mib": f"{made.kept / 2**20:.1f}", f"kernel_{form}": f"{made.kernel:.3f}"}
            row |= {f"loss_{form}": f"{made.loss:.6f}"}
        row |= {"repeats": repeats, "hardware": environment.hardware()}
        if out is None:
            out = csv.DictWriter(sys.stdout, row)
            out.writeheader()
        out.writerow(row)
        sys.stdout.flush()
