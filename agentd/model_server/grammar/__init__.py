"""Legal answers: a schema becomes a grammar, a grammar a mask over the next token.

`grammar.py` compiles, `endless.py` takes out what has no end, `compilations.py` bounds that.
`mask.py` is one answer's place in its grammar, `mask_bits.py` computes those of all rows of a step,
`call_grammar.py` is the grammar of an answer that may call tools, `labels.py` has the fields whose
value is chosen by one token.

`answer_ends.py` ends an answer that was cut: `begun.py` reads what there is of it, `matching.py`
says which way it took, `spelling.py` and `examples.py` know how values, numbers and texts with a
pattern end.
"""
