"""What can be set: a run's settings, the named experiments, their flags. Nothing here needs Jittor.
"""
