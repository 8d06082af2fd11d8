"""A stand-in for the public ARPO trainer: its names, its call order, its Ray actors, and no model.

Predictions come from a script, tokens are one number a message, and "training" writes down what it was given. It shows
what the launcher does to the trainer; what the trainer does to a model needs GPUs.
"""
