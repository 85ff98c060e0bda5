"""The model boundary: typed decisions in, HTTP and BAML behind it.

Nothing is imported here: BAML and the HTTP modules cost an idle worker memory.
"""
