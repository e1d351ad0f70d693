"""The kill harness: `make soak STAGE=prepare KILLS=20` kills a stage at random moments,
runs it again, and compares.

A file of this folder without a leading underscore is a stage. It defines `soak(folder, kills,
size, seed, say)`, which does everything in `folder`, calls `say` with a line for each kill and
returns what each came to, as a list of dataclasses; `summary` and `is_well` of such a list,
`SHOWN`, the fields for the table, and `IMAGES`, the usual size.
"""
