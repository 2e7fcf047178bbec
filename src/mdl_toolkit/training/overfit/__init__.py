"""``train --overfit N``: whether a set-up can learn at all, by having it learn a few rows by heart."""
