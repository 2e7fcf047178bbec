"""How sure the model is of an answer, and answers that are chosen among given ones."""
