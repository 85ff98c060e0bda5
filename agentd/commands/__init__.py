"""One module per command, or per noun. Each is imported only when its command runs."""
