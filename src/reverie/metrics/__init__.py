"""Numbers that can be trusted: features -> statistics -> number -> passport, with pure functions between.

Here so far: streaming statistics and the numbers made of them. What computes features comes next.
"""
