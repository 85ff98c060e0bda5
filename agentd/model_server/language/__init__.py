"""Language: the tokenizer, the chat template, and the text that tokens add up to.

`language.py` puts them together, from what `model_files.py` finds: `template.py` renders
conversations and `traced.py` tells the template's words from others', `call_form.py` learns how
calls are written, `plain_form.py` tells in words what a template does not know, `markers.py` knows
a tokenizer's markers, `text_stream.py` makes text of bytes.
"""
