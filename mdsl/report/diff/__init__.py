"""What differs between two programs, by identity, provenance and structure; and the forms in which it is shown.

`compare` makes a `Diff` (`model.py`) of two snapshots: `matching.py` finds which op is which, `rewrites.py` joins what became
what, and rewrites that are alike form groups. `text.py`, `forms.py` and `unified.py` show it.
"""
