"""Solves a system of N equations and says how far the answer is off."""

import sys

import numpy as np

n = int(sys.argv[1])
matrix = np.random.default_rng(1).random((n, n)) + n * np.eye(n)
wanted = np.ones(n)
found = np.linalg.solve(matrix, matrix @ wanted)
error = float(np.abs(found - wanted).max())
print(f"numpy {np.__version__}: {n} equations, error below 1e-9: {error < 1e-9}")
