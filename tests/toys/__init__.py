"""Models written as a user outside the project would write them: plain modules with ``stages()`` and verbs.

Each is of a family that the engine knew nothing of when it was written. No file of ``src`` names them.
"""
