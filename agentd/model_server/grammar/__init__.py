"""Legal answers: a schema becomes a grammar, a grammar a mask over the next token."""
