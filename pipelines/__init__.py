"""What happens when: flows that call the two other packages in order, remember what is done, and hold no maths.

Read `study.py` first: a study is curate, pretrain, transfer, report. Each stage is an ordinary function of names and
overrides; Prefect keeps the order and the schedule, Ray spreads the work of one stage, and `artifacts.py` decides
what is already there. A flow is called like any function, so the same lines run on a laptop and in a deployment.
"""
