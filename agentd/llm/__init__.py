"""The model boundary: typed decisions in, HTTP and BAML behind it.

`decision.py` is what the loop asks for. `baml.py` answers it: `union.py` is the union's prompt and
parser, `decision_schema.py` its mask, `answer_schema.py` how calls name that, `mcp_tools.py` what
of both MCP servers describe. `endpoint.py` has the calls, and `retries.py` how they wait and try
again. Under them: `address.py` says where our own server is and `external.py` where another one,
`model_link.py` connects to our own by no port, `wire.py` sends requests, `completion.py` reads
answers, `thoughts.py` tells thoughts from them, and `faults.py` reads refusals; `listing.py` asks
an external server for its models.

Labels: `calibration.py` keeps what was seen of each, `label_bias.py` says what to take off, and
`label_tokens.py` finds them among the tokens of an external server's answer. `label_call.py` is a
call that asks for one label alone. `likelihood.py` asks for scores, `label_phrases.py` makes labels
of them, and `ranking.py` ranks. `label_words.py` makes labels by words, without a model.

Nothing is imported here: BAML and the HTTP modules cost an idle worker memory.
"""
