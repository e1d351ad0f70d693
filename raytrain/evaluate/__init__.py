"""Evaluation: score a model's images, compare base with tuned,
and show everything in one HTML report.

`run.evaluate` renders and scores, `run.scores` judges images that are already there,
`report.write_report` draws the report of whatever a run folder holds. Scorers are the files of
`raytrain/evaluate/scorers`.
"""
