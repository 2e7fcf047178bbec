"""Answers from prompts: packed prefill, a cache sized to need, tokens chosen by transformers' own rules."""
