"""Legal answers: a schema becomes a grammar, a grammar a mask over the next token.

`grammar.py` compiles, `compilations.py` bounds that, `mask.py` is one answer's place in its
grammar, `call_grammar.py` the grammar of an answer that may call tools, `labels.py` has the fields
whose value is chosen by one token.
"""
