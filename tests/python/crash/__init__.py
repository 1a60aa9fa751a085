"""What the crash tests run in processes of their own: real stores, armed to die at named points.

Not tests. `world` is the stores of one run and what they show, `child` works until it is killed,
`heir` recovers and judges, `points` is the matrix.
"""
