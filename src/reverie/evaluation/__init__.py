"""Scores of generated images: features -> statistics -> value -> passport, with pure functions between.

features, resize        images to a pretrained network's features
statistics, neighbours  features to moments, and to nearest neighbours
distances, modes, memorisation, reconstruction, likelihood, estimate    to values with intervals; pure functions
base, fidelity, diversity, held_out, metrics, passport                  to scores with floors and passports, or refusals
run, translated, sheet  ``evaluate``: a run or two sets of images to scores.json and scores.png
"""
