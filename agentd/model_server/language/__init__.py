"""Language: the tokenizer, the chat template, and the text that tokens add up to.

`language.py` puts them together: `template.py` renders conversations, `call_form.py` learns how
calls are written, `markers.py` knows a tokenizer's markers, `text_stream.py` makes text of bytes.
"""
