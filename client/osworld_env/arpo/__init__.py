"""Many envs for the public ARPO trainer, without a patch of its repository.

``python -m osworld_env.arpo verl.trainer.main config=...`` runs the trainer with some names replaced when they are
imported. ``trainer`` says which names it must have, ``patch`` replaces them, ``worker`` and ``masking`` are what
goes in their place, ``plan`` checks the trainer's config. Runs inside the trainer's environment: nothing here imports
torch, Ray or the trainer before the trainer itself does.
"""
