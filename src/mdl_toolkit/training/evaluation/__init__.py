"""How good the model is while it is trained: its loss on held-out data, and its answers to it.

``evaluation.py`` makes an evaluation of all sets; ``loss.py`` and ``generate.py`` measure one of them.
"""
