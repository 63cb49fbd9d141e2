"""Numbers that can be trusted: features -> statistics -> number -> passport, with pure functions between.

features, resize       pictures to what a pretrained network sees in them
statistics, neighbours  features to moments, and to nearest neighbours
distances, modes, memorisation, reconstruction, likelihood, estimate   to numbers with intervals; pure functions
bench, likeness, diversity, unseen, evaluate, passport                 to scores with floors and passports, or refusals
"""
