"""What people are shown: one model of a view, and four forms of it.

`model` says what is shown; `text`, `html`, `svg` and `data` (JSON) are the forms; `viewed` gives
them to a class; `frames` makes tables for pandas and Arrow. Which facts of a coordination, a lock
or a cluster are shown stands in `coordinations` and `operations`. Not the layout of graphs: that is
the engine's. Invariants: no form runs or loads anything; text that users or stores wrote is made
harmless in each (`words`).
"""
