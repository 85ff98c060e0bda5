"""Language: the tokenizer, the chat template, and the text that tokens add up to."""
